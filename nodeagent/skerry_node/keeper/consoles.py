"""What is typed to first processes: the writing end of an input pipe, or the master of a terminal. The keeper holds it, its attic too.

The agent gets it by fd on demand, so that an agent's death takes nobody's input away. A terminal's output goes from its master into the pipe of
standard output by splice(2), and from there into the log as any program's does: who attaches reads the log.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from skerry_node.keeper import door, logs, terminals, wire
from skerry_node.kernel import syscalls

_TERMINAL_BYTES = 1 << 12
"""What n_tty hands out at once."""
_LAST_BYTES = 1 << 20
"""The most that is read of a terminal after its program has ended: the kernel holds less."""
ACCEPTED = b"A"
"""The keeper's word that it holds the master; the child waits for it, so that no death of ours can hang its terminal up."""


@dataclass(slots=True)
class Console:
    """Of one first process. With a terminal, *peer_fd* keeps it from being hung up, and *pipe_fd* is the writing end of standard output."""

    fd: int
    peer_fd: int = -1
    pipe_fd: int = -1

    @property
    def is_terminal(self) -> bool:
        """Whether it is one; else a pipe."""
        return self.pipe_fd >= 0

    def pump(self, output: logs.Stream) -> bool:
        """Move what the terminal shows towards *output*; whether anything moved. A full pipe is emptied first."""
        try:
            return syscalls.splice_into_pipe(self.fd, self.pipe_fd, count=_TERMINAL_BYTES) > 0
        except BlockingIOError:
            return bool(output.pump())
        except OSError:  # EIO: hung up, and empty
            return False

    def drain(self, output: logs.Stream) -> None:
        """Move all that is left; the program has ended."""
        left = _LAST_BYTES
        while self.is_terminal and left > 0 and self.pump(output):
            left -= _TERMINAL_BYTES

    def close(self) -> None:
        """Let go of it: a terminal is hung up, a pipe reads as ended."""
        for fd in (self.fd, self.peer_fd, self.pipe_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.peer_fd = self.pipe_fd = -1


def make_input(owner: int) -> tuple[Console, int]:
    """A pipe for standard input: what we hold, and the program's end, owned by host id *owner* so that /dev/stdin can be opened anew."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    os.fchown(reading, owner, owner)
    return Console(writing), reading


def take_master(status_fd: int, runtime_fd: int, uid: str) -> tuple[bytes, Console | None]:
    """What the child told on its status socket: bytes, and its terminal when that came along. Raises BlockingIOError."""
    status = socket.socket(fileno=status_fd)
    try:
        part, fds, _, _ = socket.recv_fds(status, 4096, 1)
    finally:
        status.detach()
    return (part[1:], hold(fds[0], runtime_fd, uid)) if fds else (part, None)


def hold(fd: int, runtime_fd: int, uid: str) -> Console:
    """A console of *fd*, which is ours now, of a living first process of *uid*: a master, or the end of a pipe."""
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)  # noqa: FBT003 - the os module's own signature
    if not os.isatty(fd):
        return Console(fd)
    peer = -1
    with contextlib.suppress(OSError):  # hung up already
        peer = terminals.open_peer(fd)
    return Console(fd, peer, os.open(f"{uid}/stdout", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=runtime_fd))


class Consoles:
    """Requests about them. *find* gives the console of a sandbox, None when it does not run or has none; *has_closed* hears of closed inputs."""

    def __init__(self, *, find: Callable[[str], Console | None], has_closed: Callable[[str], None]) -> None:
        self._find = find
        self._has_closed = has_closed
        self.handlers: dict[str, Callable[[wire.Message, door.Reply], None]] = {"console": self._on_console, "console_close": self._on_close}

    def _on_console(self, message: wire.Message, reply: door.Reply) -> None:
        found = self._find(message["uid"])
        if found is None or found.fd < 0:
            reply({"error": {"errno": 0, "problem": "its standard input is closed", "reason": "NoInput"}})
        else:
            reply({"ok": {"terminal": found.is_terminal}}, [found.fd])

    def _on_close(self, message: wire.Message, reply: door.Reply) -> None:
        """A pipe reads as ended once the agent has closed its own fds of it, too; a terminal has no end but what is typed."""
        found = self._find(message["uid"])
        if found is not None and not found.is_terminal:
            found.close()
            self._has_closed(message["uid"])
        reply({"ok": {}})
