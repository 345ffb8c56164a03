"""Pipes and terminals as the event loop reads and writes them: raw fds without a transport, so that nothing is buffered that nobody asked for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os

CHUNK_BYTES = 1 << 18
LAST_BYTES = 1 << 20
"""The most that a pipe of ours holds: what is read of one after its program has ended, however busy others who hold it are."""
_GONE = frozenset({errno.EIO, errno.EPIPE, errno.ECONNRESET})
"""What a terminal or a pipe says when nobody is at its other end."""


class Reader:
    """Reads *fd* as bytes come. After `finish` it ends where it would have to wait."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._left: int | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """Some bytes, or none at the end."""
        while True:
            try:
                return self._take()
            except BlockingIOError:
                if self._left is not None:
                    return b""
            except OSError as error:
                if error.errno in _GONE:
                    return b""
                raise
            await self._wait()

    def finish(self) -> None:
        """The writer has ended: what is in the pipe now is all that is read; others who hold it open are not waited for."""
        self._left = LAST_BYTES
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _take(self) -> bytes:
        if self._left is None:
            return os.read(self.fd, CHUNK_BYTES)
        data = os.read(self.fd, min(CHUNK_BYTES, self._left)) if self._left else b""
        self._left -= len(data)
        return data

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        loop.add_reader(self.fd, _wake, self._waiting)
        try:
            await self._waiting
        finally:
            loop.remove_reader(self.fd)
            self._waiting = None


async def write_all(fd: int, data: bytes | memoryview) -> bool:
    """Write *data* at the reader's pace; False when nobody reads any more. Raises OSError."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_writer(fd, _wake, ready)
            try:
                await ready
            finally:
                loop.remove_writer(fd)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
    return True


async def wait_readable(fd: int) -> None:
    """Until *fd* has something to read; a pidfd has when its process has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def close(fd: int) -> None:
    """Close *fd* when it is one."""
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
