"""One connection to the keeper for one exec: the request, the fds that come with the answer, and the word of its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import Any

from skerry_node.keeper import client, wire

_REPLY_SECONDS = 30.0
_START_SECONDS = 5.0
"""The agent starts a keeper again as soon as it sees that it has gone, which takes half a second."""
_RETRY_SECONDS = 0.02
_MAX_FDS = 4
_CHUNK = 1 << 16


class Line:
    """Requests go out one after another. `ended` gives the wait status of the exec, or None when the keeper has gone before it could tell."""

    def __init__(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._socket = connection
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._answers: asyncio.Queue[wire.Message] = asyncio.Queue()
        self.ended: asyncio.Future[int | None] = loop.create_future()
        loop.add_reader(connection.fileno(), self._on_readable)

    async def ask(self, do: str, **fields: Any) -> tuple[wire.Message, list[int]]:
        """The answer and its fds, which are the caller's now. Raises client.Refused, client.KeeperLost."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, wire.encode({"id": 1, "do": do, **fields}))
            async with asyncio.timeout(_REPLY_SECONDS):  # wait_for of Python 3.11 may swallow a cancellation
                answer = await self._answers.get()
        except (TimeoutError, OSError, ValueError) as error:
            raise client.KeeperLost(f"the keeper did not answer {do!r}") from error
        if "lost" in answer:
            raise client.KeeperLost("the keeper died")
        if "error" in answer:
            raise client.Refused(**answer["error"])
        fds, self._fds = self._fds, []
        result: wire.Message = answer["ok"]
        return result, fds

    def close(self) -> None:
        """Hang up. What runs goes on."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if not self.ended.done():
            self.ended.set_result(None)

    def _on_readable(self) -> None:
        try:
            part, fds, _, _ = socket.recv_fds(self._socket, _CHUNK, _MAX_FDS)
        except BlockingIOError:
            return
        except OSError:
            part, fds = b"", []
        for fd in fds:
            os.set_inheritable(fd, False)  # noqa: FBT003 - the os module's own signature
        self._fds += fds
        if not part:
            self._answers.put_nowait({"lost": True})
            self.close()
            return
        self._buffer += part
        with contextlib.suppress(wire.BrokenPeer):
            while (message := wire.take(self._buffer)) is not None:
                self._deliver(message)
            return
        self.close()

    def _deliver(self, message: wire.Message) -> None:
        if "ended" in message:
            if not self.ended.done():
                self.ended.set_result(message["ended"])
        elif "id" in message:
            self._answers.put_nowait(message)


async def connect(socket_path: str, *, patience_seconds: float = _START_SECONDS) -> Line:
    """A line to the keeper that listens at *socket_path*; waits so long for one that is being started. Raises client.KeeperLost."""
    deadline = time.monotonic() + patience_seconds
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(connection, socket_path)
        except OSError as error:
            connection.close()
            if time.monotonic() >= deadline:
                raise client.KeeperLost("no keeper listens") from error
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return Line(connection)
