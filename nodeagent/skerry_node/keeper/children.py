"""First processes as the keeper holds them, its own and those of an earlier keeper; how they ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from skerry_node.keeper import consoles, door, holding, logs, records, spawn
from skerry_node.kernel import syscalls


@dataclass(slots=True)
class Child:
    """A sandbox's first process, ours or adopted from an earlier keeper."""

    uid: str
    attempt: int
    pid: int
    pidfd: int
    streams: tuple[logs.Stream, ...]
    starting: spawn.Starting | None = None
    reply: door.Reply | None = None
    dead_since: float | None = None
    began: float = 0.0
    console: consoles.Console | None = None

    @property
    def runs(self) -> bool:
        """Whether it is the sandbox's program, and alive as far as we know."""
        return self.starting is None and self.dead_since is None

    def drain(self) -> None:
        """Move what the dead still have in their pipes; every process of the sandbox has died with its first."""
        if self.console is not None:
            self.console.drain(self.streams[0])
        _drain(self.streams)

    def keep(self, attic: holding.Attic) -> None:
        """Have *attic* hold what must outlive us."""
        console_fds = [self.console.fd] if self.console is not None and self.console.fd >= 0 else []
        attic.keep(self.uid, self.attempt, pidfd=self.pidfd, pipe_fds=[stream.pipe_fd for stream in self.streams], console_fds=console_fds)


def wait_status(child: Child) -> tuple[bool, int | None]:
    """Whether the end is known, and the wait status: from waitid for our own child.

    For an adopted one from the pidfd once somebody has reaped it (Linux 6.15), or from the zombie until then.
    """
    try:
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        status = syscalls.pidfd_exit_status(child.pidfd)
        if status is None:
            status = records.read_zombie_status(child.pid)
        return status is not None, status
    if result is None:
        return False, None
    killed = result.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
    return True, result.si_status if killed else result.si_status << 8


def adopt(room: spawn.Room, attic: holding.Attic, uid: str, kept: dict[tuple[str, int], holding.Kept]) -> Child | None:
    """The first process of *uid* that an earlier keeper left: the living by pid, start time and boot id, the dead by what the attic *kept* of them.

    None when there is nothing to wait for: its end is told, or nobody can tell it any more. Raises OSError.
    """
    record = records.read_process(room.runtime_fd, uid)
    if record is None or records.has_exit(room.runtime_fd, uid, attempt=record.attempt):
        return None
    directory = os.open(uid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=room.runtime_fd)
    try:
        streams = logs.open_streams(directory, room.logs_fd, uid, room.bounds)
    finally:
        os.close(directory)
    pidfd = records.open_process(record)
    above = kept.get((uid, record.attempt))
    if above is None and pidfd is not None:
        attic.keep(uid, record.attempt, pidfd=pidfd, pipe_fds=[stream.pipe_fd for stream in streams])
    if pidfd is None and above is not None:
        pidfd = os.dup(above.pidfd)  # it ended while there was no keeper: now its end and its output are told
    console = None
    if above is not None and above.console_fd is not None:
        console = consoles.hold(os.dup(above.console_fd), room.runtime_fd, uid)
    if pidfd is None:
        _drain(streams)
        for stream in streams:
            stream.close()
        return None
    if not record.started and records.is_own_program(record.pid):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # its orders died with the keeper: it was never started
    elif not record.started:
        records.mark_started(room.runtime_fd, uid)
    return Child(uid=uid, attempt=record.attempt, pid=record.pid, pidfd=pidfd, streams=streams, console=console)


def _drain(streams: tuple[logs.Stream, ...]) -> None:
    for stream in streams:
        while stream.pump():
            pass
