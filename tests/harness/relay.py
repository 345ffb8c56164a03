"""A way to the API server that can be cut: a partition of one node, as its agent sees it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import urllib.parse
from typing import Self

import yaml

_PIECE = 65_536


class Relay:
    """Carries bytes between a port of loopback and *target* (host, port) in a thread of its own. While cut it carries none, and says so to nobody.

    Healing breaks the connections that stood: they are as good as dead to both ends after minutes without a byte.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._open = threading.Event()
        self._open.set()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        self._open.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        self._thread.join()
        for each in (*self._pairs, self._listener):
            each.close()

    def cut(self) -> None:
        """No byte passes from now on; connections stay open, new ones are taken in and hear nothing."""
        self._open.clear()

    def heal(self) -> None:
        """Bytes pass again, in new connections."""
        pairs, self._pairs = self._pairs, {}
        for each in pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.set()

    def write_kubeconfig(self, source: str, target: str) -> str:
        """The kubeconfig *source* with the relay in the place of the server, at *target*."""
        with open(source, encoding="utf-8") as file:
            content = yaml.safe_load(file)
        for each in content["clusters"]:
            each["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        with open(target, "w", encoding="utf-8") as file:
            yaml.safe_dump(content, file)
        return target

    def _run(self) -> None:
        while not self._has_ended:
            self._open.wait()
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                for each in list(self._pairs):
                    with contextlib.suppress(ValueError, KeyError):
                        selector.register(each, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select(0.05)]
            if not self._open.is_set():
                continue
            for each in ready:
                assert isinstance(each, socket.socket)
                self._serve(each)

    def _serve(self, ready: socket.socket) -> None:
        if ready is self._listener:
            with contextlib.suppress(OSError):
                self._connect()
            return
        other = self._pairs.get(ready)
        if other is None:
            return
        try:
            data = ready.recv(_PIECE)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        for each in (ready, other):
            self._pairs.pop(each, None)
            each.close()

    def _connect(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        self._pairs |= {near: far, far: near}


def target_of(kubeconfig: str) -> tuple[str, int]:
    """Where a kubeconfig's first cluster is."""
    with open(kubeconfig, encoding="utf-8") as file:
        server = yaml.safe_load(file)["clusters"][0]["cluster"]["server"]
    found = urllib.parse.urlsplit(server)
    return found.hostname or "127.0.0.1", found.port or 443
