"""One exec as the agent holds it: its output goes to whoever is attached, at their pace; while nobody is, the newest of it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from skerry_node.keeper import client
from skerry_node.kernel import syscalls
from skerry_node.sessions import line, streams

STDOUT, STDERR = 1, 2
BACKLOG_BYTES = 64 << 10
"""Of output that nobody was attached to read, kept for who attaches next."""
_WINDOW = struct.Struct("4H")


class Sink(Protocol):
    """Where output goes."""

    async def send(self, number: int, data: bytes) -> None:
        """Take bytes of stream *number*, at the client's pace. Raises ConnectionError when it has gone."""
        ...

    async def close(self) -> None:
        """Somebody else has taken the stream over; a `send` that waits ends with ConnectionError."""
        ...


@dataclass(frozen=True, slots=True)
class Exit:
    """How it ended: a wait status, None when nobody could read it; *has_timed_out* when that was our doing."""

    status: int | None
    has_timed_out: bool = False


class Session:
    """A process that joined sandbox *uid*. `exit` is set once it has ended and all its output is delivered."""

    def __init__(self, talk: line.Line, description: dict[str, object], fds: list[int]) -> None:
        self.name = str(description["name"])
        self.id = self.name.rpartition("/")[2]
        self.uid = str(description["uid"])
        self.task = str(description["task"])
        argv = description["argv"]
        self.argv = tuple(str(word) for word in argv) if isinstance(argv, list) else ()
        self.pid = int(str(description["pid"]))
        self.has_terminal = bool(description["terminal"])
        self.has_input = bool(description["input"]) or self.has_terminal
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._line = talk
        self._pidfd, *rest = fds
        self._input = rest[0] if self.has_input else -1
        outputs = rest if self.has_terminal else rest[-2:]
        self._readers = {number: streams.Reader(fd) for number, fd in zip((STDOUT, STDERR), outputs, strict=False)}
        self._fds = rest
        self._sink: Sink | None = None
        self._turn = asyncio.Lock()
        self._is_released = asyncio.Event()
        self._backlog: deque[tuple[int, bytes]] = deque()
        self._has_timed_out = False
        self._life = asyncio.get_running_loop().create_task(self._live())

    @property
    def is_attached(self) -> bool:
        """Whether a client gets its output now."""
        return self._sink is not None

    async def attach(self, sink: Sink) -> None:
        """Give *sink* what was kept, and everything from now on; an earlier sink gets no more. Raises ConnectionError."""
        before, self._sink = self._sink, None
        if before is not None:
            await before.close()
        async with self._turn:
            while self._backlog:
                await sink.send(*self._backlog[0])
                self._backlog.popleft()
            self._sink = sink
        self._is_released.set()

    def release(self) -> None:
        """Nobody will attach at once: read on and keep the newest, so that the program does not wait for a reader."""
        self._is_released.set()

    def detach(self, sink: Sink) -> bool:
        """Stop giving output to *sink*; whether it got any until now."""
        if self._sink is not sink:
            return False
        self._sink = None
        return True

    async def write(self, data: bytes | memoryview) -> bool:
        """To its standard input, at its pace; False when it reads no more."""
        if self._input < 0:
            return False
        return await streams.write_all(self._input, data)

    async def close_input(self) -> None:
        """Let it read an end of file; on a terminal there is none but what is typed."""
        if self._input >= 0 and not self.has_terminal:
            self._fds.remove(self._input)
            fd, self._input = self._input, -1
            streams.close(fd)
            with contextlib.suppress(client.KeeperLost, client.Refused):
                await self._line.ask("exec_close_input", name=self.name)

    def resize(self, columns: int, rows: int) -> None:
        """Its terminal's new size; programs hear of it by SIGWINCH."""
        if self.has_terminal and self._input >= 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._input, termios.TIOCSWINSZ, _WINDOW.pack(rows, columns, 0, 0))

    async def signal(self, number: int, *, group: bool = False) -> None:
        """To the process, or its whole process group; one that has ended is fine. Raises client.KeeperLost."""
        await self._line.ask("exec_signal", name=self.name, signal=number, group=group)

    def limit(self, seconds: float) -> None:
        """Kill it, and what it has started in its process group, after *seconds*."""
        task = asyncio.get_running_loop().create_task(self._expire(seconds))
        self.exit.add_done_callback(lambda _: task.cancel())

    async def forget(self) -> None:
        """Nobody will ask for it again: let go of everything. What still runs goes on in the keeper's books."""
        self._life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._life
        if self.exit.done():
            with contextlib.suppress(client.KeeperLost, client.Refused):
                await self._line.ask("exec_forget", name=self.name)
        else:
            self.exit.cancel()
        self._line.close()
        for fd in (self._pidfd, *self._fds):
            streams.close(fd)
        self._pidfd, self._fds, self._input = -1, [], -1

    async def _expire(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._has_timed_out = True
        with contextlib.suppress(client.KeeperLost):
            await self.signal(signal.SIGKILL, group=True)

    async def _live(self) -> None:
        pumps = [asyncio.ensure_future(self._pump(number, reader)) for number, reader in self._readers.items()]
        try:
            status = await asyncio.shield(self._line.ended)
            if status is None:
                status = await self._wait_without_keeper()
            for reader in self._readers.values():
                reader.finish()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for pump in pumps:
                pump.cancel()
        if not self.exit.done():
            self.exit.set_result(Exit(status, has_timed_out=self._has_timed_out))

    async def _wait_without_keeper(self) -> int | None:
        """Its parent has died. Our pidfd tells when it has ended, and from Linux 6.15 on how."""
        await streams.wait_readable(self._pidfd)
        for _ in range(100):  # init reaps it in its own time
            status = syscalls.pidfd_exit_status(self._pidfd)
            if status is not None:
                return status
            await asyncio.sleep(0.01)
        return None

    async def _pump(self, number: int, reader: streams.Reader) -> None:
        await self._is_released.wait()
        while data := await reader.read():
            async with self._turn:
                await self._deliver(number, data)

    async def _deliver(self, number: int, data: bytes) -> None:
        sink = self._sink
        if sink is not None:
            try:
                await sink.send(number, data)
            except ConnectionError:
                self.detach(sink)
            else:
                return
        self._backlog.append((number, data))
        kept = sum(len(piece) for _, piece in self._backlog)
        while kept > BACKLOG_BYTES and len(self._backlog) > 1:
            kept -= len(self._backlog.popleft()[1])


def decode(status: int | None) -> tuple[int | None, str | None]:
    """Exit code (128 + n for signal n) and the signal's name of a wait status."""
    if status is None:
        return None, None
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status), None
    number = status & 0x7F
    try:
        return 128 + number, signal.Signals(number).name
    except ValueError:
        return 128 + number, f"SIG{number}"
