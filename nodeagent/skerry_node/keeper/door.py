"""The keeper's door: connections of agents on its unix socket, their requests, our replies and events. Never blocks on a peer."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from skerry_node.keeper import wire
from skerry_node.keeper.events import HANG_UP, READABLE, WRITABLE, Events

_PEERCRED = struct.Struct("3i")
_READ_BYTES = 1 << 18
_MAX_FDS = 64


class Reply(Protocol):
    """Answers one request; it may be called again for news of it."""

    def __call__(self, result: wire.Message, fds: Sequence[int] = ()) -> None:
        """Send *result*, and *fds* with it, which stay ours."""
        ...


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    fds: list[int] = field(default_factory=list)


class Door:
    """Accepts peers of our own user on *listener*; each request goes to *answer* with the function that replies to it."""

    def __init__(self, listener: socket.socket, events: Events, answer: Callable[[wire.Message, Reply], None]) -> None:
        self._listener = listener
        self._events = events
        self._answer = answer
        self._clients: dict[int, _Client] = {}
        events.watch(listener.fileno(), self._accept)

    @property
    def fds(self) -> Collection[int]:
        """The fds of the connections."""
        return self._clients

    def broadcast(self, event: wire.Message) -> None:
        """Tell every agent that is on the line."""
        for client in list(self._clients.values()):
            self._send(client, event)

    def _accept(self, _: int) -> None:
        connection, _address = self._listener.accept()
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        if _PEERCRED.unpack(peer)[1] != os.geteuid():
            connection.close()
            return
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        client = _Client(socket=connection)
        self._clients[connection.fileno()] = client
        self._events.watch(connection.fileno(), lambda mask: self._on_ready(client, mask))

    def _on_ready(self, client: _Client, mask: int) -> None:
        try:
            if mask & WRITABLE:
                self._flush(client)
            if mask & (READABLE | HANG_UP):
                part, fds, _, _ = socket.recv_fds(client.socket, _READ_BYTES, _MAX_FDS)
                for fd in fds:
                    os.set_inheritable(fd, False)  # noqa: FBT003 - the os module's own signature; recv_fds of Python 3.11 forgets its flags
                client.fds += fds
                if not part:
                    self._hang_up(client)
                    return
                client.incoming += part
                while (message := wire.take(client.incoming)) is not None:
                    self._handle(client, message)
        except BlockingIOError:
            return
        except (OSError, wire.BrokenPeer):
            self._hang_up(client)

    def _handle(self, client: _Client, message: wire.Message) -> None:
        """Fds that came belong to the message whose end came with or after them, and are closed when it has been answered or begun."""
        message["fds"], client.fds = client.fds, []
        try:
            self._answer(message, self._make_reply(client, message))
        finally:
            for fd in message["fds"]:
                os.close(fd)

    def _make_reply(self, client: _Client, message: wire.Message) -> Reply:
        def reply(result: wire.Message, fds: Sequence[int] = ()) -> None:
            if self._clients.get(client.socket.fileno()) is client:
                self._send(client, {"id": message["id"], **result}, fds)

        return reply

    def _send(self, client: _Client, message: wire.Message, fds: Sequence[int] = ()) -> None:
        client.outgoing += wire.encode(message)
        try:
            if fds:  # on connections of one exec each, where nothing else waits to be sent
                del client.outgoing[: socket.send_fds(client.socket, [client.outgoing], fds)]
            self._flush(client)
        except OSError:
            self._hang_up(client)

    def _flush(self, client: _Client) -> None:
        """Send what the socket takes now, and ask to be woken for the rest."""
        had_rest = False
        with contextlib.suppress(BlockingIOError):
            while client.outgoing:
                had_rest = True
                del client.outgoing[: client.socket.send(client.outgoing)]
        if had_rest:
            self._events.change(client.socket.fileno(), READABLE | (WRITABLE if client.outgoing else 0))

    def _hang_up(self, client: _Client) -> None:
        if self._clients.pop(client.socket.fileno(), None) is not None:
            self._events.unwatch(client.socket.fileno())
            client.socket.close()
            for fd in client.fds:
                os.close(fd)
            client.fds = []
