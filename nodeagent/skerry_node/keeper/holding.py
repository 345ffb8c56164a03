"""The keeper's way to its attic: what is put there, and what an earlier keeper left there."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from skerry_node.keeper import attic

NAME = "attic.sock"
"""Beside the keeper's own socket."""
_PLAIN_FDS = 3
"""A pidfd and two pipes, which every start has."""
_SEND_SECONDS = 0.25
"""How long to wait, once, for an attic that does not keep up: then it is stuck, and is given up."""
_TAKE_SECONDS = 5.0
"""How long the attic may take to hand out what it holds: it answers within milliseconds, or is stuck and is replaced."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of one start: the pidfd of its first process, the reading ends of its pipes, and what is typed to it, if anything is."""

    pidfd: int
    pipe_fds: tuple[int, ...]
    console_fd: int | None = None

    def close(self) -> None:
        """Close all of it; the attic has its own."""
        for fd in (self.pidfd, *self.pipe_fds, *(() if self.console_fd is None else (self.console_fd,))):
            os.close(fd)


class Attic:
    """A connection to it. One that breaks is given up: there is no attic then until the next keeper starts one. Nothing here raises."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | None = connection
        connection.settimeout(_SEND_SECONDS)

    def keep(self, uid: str, attempt: int, *, pidfd: int, pipe_fds: Sequence[int], console_fds: Sequence[int] = ()) -> None:
        """Hold these for start number *attempt* of *uid*, besides the caller."""
        self._send(b"K" + _render_key(uid, attempt), [pidfd, *pipe_fds, *console_fds])

    def drop(self, uid: str, attempt: int) -> None:
        """Let go of them; nothing held is fine."""
        self._send(b"D" + _render_key(uid, attempt), [])

    def stop(self) -> None:
        """End the attic, with all that it holds."""
        self._send(b"S", [])

    def _send(self, packet: bytes, fds: list[int]) -> None:
        if self._connection is None:
            return
        try:
            attic.send(self._connection, packet, fds, socket.MSG_NOSIGNAL)
        except OSError as error:  # TimeoutError among them
            sys.stderr.write(f"the attic is gone: {error}\n")
            self._connection.close()
            self._connection = None


def open_attic(path: str) -> tuple[Attic, dict[tuple[str, int], Kept]]:
    """The attic that listens on *path*, started when none does, and what it holds, by uid and attempt; the caller closes that.

    To be called while Python's files can be reached, and before the caller becomes a subreaper. Blocks for milliseconds.
    """
    connection = _connect(path)
    if connection is not None:
        try:
            kept = _take(connection)
            return Attic(connection), kept
        except OSError as error:
            sys.stderr.write(f"the attic does not answer: {error}\n")
            connection.close()
    return Attic(_start(path)), {}


def stop_attic(path: str) -> None:
    """End the attic of *path*, if there is one."""
    connection = _connect(path)
    if connection is not None:
        Attic(connection).stop()
        connection.close()


def _connect(path: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _start(path: str) -> socket.socket:
    """A new attic, nobody's child, that gets its listening socket as standard input; the connection waits in its queue."""
    temporary = f"{path}.{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        mask = os.umask(0o177)
        listener.bind(temporary)
        os.umask(mask)
        listener.listen(4)
        os.rename(temporary, path)
        pid = os.fork()
        if pid == 0:
            try:
                if os.fork() == 0:
                    os.dup2(listener.fileno(), 0)
                    _become(attic.__file__)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        connection = _connect(path)
    if connection is None:
        raise ConnectionRefusedError(f"nothing listens on {path}, which was bound just now")
    return connection


def _become(script: str) -> None:
    """Execute *script* by the Python that runs us; from a sealed runtime, by its own loader as we were."""
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    start = words[: words.index(b"-I")] if words[1] == b"--library-path" else [os.fsencode(sys.executable)]
    os.execv(start[0], [*start, b"-I", b"-S", os.fsencode(script)])  # noqa: S606 - ourselves


def _take(connection: socket.socket) -> dict[tuple[str, int], Kept]:
    connection.settimeout(_TAKE_SECONDS)
    connection.send(b"T")
    found: dict[tuple[str, int], Kept] = {}
    while True:
        key, fds = attic.receive(connection)
        if key == attic.END:
            return found
        if not key:
            raise ConnectionResetError("it hung up")
        uid, _, attempt = key.decode().rpartition(".")
        found[uid, int(attempt)] = Kept(
            pidfd=fds[0], pipe_fds=tuple(fds[1:_PLAIN_FDS]), console_fd=fds[_PLAIN_FDS] if len(fds) > _PLAIN_FDS else None
        )


def _render_key(uid: str, attempt: int) -> bytes:
    return f"{uid}.{attempt}".encode()
