"""What is typed to first processes, as the agent holds it: fds from the keeper, for as long as somebody is attached."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios

from skerry_node.keeper import client
from skerry_node.sessions import line

_WINDOW = struct.Struct("4H")


class Console:
    """One attachment to the input of sandbox *uid*'s first process. The fd is fetched when it is first needed, and again after a new start."""

    def __init__(self, table: Consoles, uid: str) -> None:
        self._table = table
        self._uid = uid
        self._fd = -1
        self._ready: asyncio.Future[None] | None = None

    async def write(self, data: bytes | memoryview) -> None:
        """At the program's pace. What nobody can read any more is dropped. Raises client.KeeperLost."""
        left = memoryview(data)
        for _ in range(2):  # a new start has another fd
            if self._fd < 0 and not await self._open():
                return
            left = await self._write(left)
            if not left:
                return
            self.release()

    async def _write(self, left: memoryview) -> memoryview:
        """What is left of it when nobody reads any more, or when the fd was let go of meanwhile."""
        fd = self._fd
        while left and self._fd == fd:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                await self._wait_writable(fd)
            except OSError as error:
                if error.errno not in {errno.EIO, errno.EPIPE}:
                    raise
                break
        return left

    async def _wait_writable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        ready = self._ready = loop.create_future()
        loop.add_writer(fd, _wake, ready)
        try:
            await ready
        finally:
            if self._ready is ready:  # else `release` has let go of the fd, whose number may be another's by now
                loop.remove_writer(fd)
                self._ready = None

    async def resize(self, columns: int, rows: int) -> None:
        """The terminal's new size; its programs hear of it by SIGWINCH. Raises client.KeeperLost."""
        if self._fd >= 0 or await self._open():
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, termios.TIOCSWINSZ, _WINDOW.pack(rows, columns, 0, 0))

    async def close_input(self) -> None:
        """Let the program read an end of file, whoever else is attached; a terminal has none but what is typed. Raises client.KeeperLost."""
        await self._table.close_input(self._uid)

    def release(self) -> None:
        """Let go of the fd, in the middle of a write too; the keeper has its own."""
        if self._ready is not None:
            asyncio.get_running_loop().remove_writer(self._fd)
            _wake(self._ready)
            self._ready = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Detach."""
        self.release()
        self._table.forget(self._uid, self)

    async def _open(self) -> bool:
        fd = await self._table.fetch(self._uid)
        if fd is None:
            return False
        self.release()
        self._fd = fd
        return True


class Consoles:
    """All attachments of this node, by sandbox; *socket_path* is the keeper's."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._all: dict[str, set[Console]] = {}

    def attach(self, uid: str) -> Console:
        """A new one; `close` it."""
        made = Console(self, uid)
        self._all.setdefault(uid, set()).add(made)
        return made

    def forget(self, uid: str, console: Console) -> None:
        """It is closed."""
        found = self._all.get(uid, set())
        found.discard(console)
        if not found:
            self._all.pop(uid, None)

    async def fetch(self, uid: str) -> int | None:
        """An fd that is the caller's; None when the first process does not run, or reads no more. Raises client.KeeperLost."""
        talk = await line.connect(self._socket_path)
        try:
            _, fds = await talk.ask("console", uid=uid)
        except client.Refused:
            return None
        finally:
            talk.close()
        os.set_blocking(fds[0], False)
        return fds[0]

    async def close_input(self, uid: str) -> None:
        """Close it for everybody."""
        talk = await line.connect(self._socket_path)
        try:
            await talk.ask("console_close", uid=uid)
        finally:
            talk.close()
        for console in self._all.get(uid, ()):
            console.release()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
