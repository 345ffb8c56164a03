"""The agent's own pidfds on living sandboxes: when the keeper dies, they alone tell how a program ended meanwhile (ADR 3)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from skerry_node.keeper import records
from skerry_node.kernel import syscalls


@dataclass(frozen=True, slots=True)
class Handle:
    """A pidfd of exactly one process."""

    pid: int
    start_ticks: int
    pidfd: int

    def is_of(self, record: records.Process) -> bool:
        """Whether it is of the recorded process."""
        return (self.pid, self.start_ticks) == (record.pid, record.start_ticks)


class Handles:
    """One handle for each sandbox, by uid; *runtime_fd* is where the records lie."""

    def __init__(self, runtime_fd: int) -> None:
        self._runtime_fd = runtime_fd
        self._held: dict[str, Handle] = {}

    def hold_all(self) -> None:
        """Take a handle on every living sandbox."""
        for uid in os.listdir(self._runtime_fd):
            self.hold(uid)

    def hold(self, uid: str) -> None:
        """Take a handle on *uid*. One that is held already is kept: it may be the only one left on a process that has died."""
        record = records.read_process(self._runtime_fd, uid)
        if record is None:
            return
        held = self._held.get(uid)
        if held is not None and held.is_of(record):
            return
        self.release(uid)
        pidfd = records.open_process(record)
        if pidfd is not None:
            self._held[uid] = Handle(pid=record.pid, start_ticks=record.start_ticks, pidfd=pidfd)

    def release(self, uid: str) -> None:
        """Let go of *uid*; none held is fine."""
        held = self._held.pop(uid, None)
        if held is not None:
            os.close(held.pidfd)

    def read_end(self, uid: str, record: records.Process) -> int | None:
        """The wait status of the recorded process when it has ended and can still be told, else None."""
        held = self._held.get(uid)
        if held is None or not held.is_of(record):
            return None
        status = syscalls.pidfd_exit_status(held.pidfd)
        return status if status is not None else records.read_zombie_status(record.pid)
