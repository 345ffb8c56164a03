"""The keeper's records of a sandbox, in its runtime directory: `starting`, which becomes `process`, and `exit`. Never synced.

They live on a filesystem that a reboot empties. A pid counts only with its start time and the boot id (proc_pid_stat(5), field 22).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True)
class Process:
    """The first process of a sandbox. *started*, the name of the record, tells that the program itself was reached."""

    pid: int
    start_ticks: int
    boot_id: str
    attempt: int
    started: bool
    started_ns: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How the start number *attempt* ended; *status* is a wait status, None when nobody could read it any more."""

    attempt: int
    status: int | None
    finished_ns: int


def _read_boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


BOOT_ID = _read_boot_id()


def write_starting(runtime_fd: int, uid: str, *, pid: int, start_ticks: int, attempt: int) -> None:
    """Record the process before it can run. Nobody reads it half written: it appears by a rename."""
    body = {
        "version": VERSION, "pid": pid, "start_ticks": start_ticks, "boot_id": BOOT_ID, "attempt": attempt, "started_ns": time.time_ns(),
    }  # fmt: skip
    _write(runtime_fd, f"{uid}/starting", body)


def mark_started(runtime_fd: int, uid: str) -> None:
    """Note that the process has become the program: one rename, which is why the name of the record tells it."""
    os.rename(f"{uid}/starting", f"{uid}/process", src_dir_fd=runtime_fd, dst_dir_fd=runtime_fd)


def remove_process(runtime_fd: int, uid: str) -> None:
    """Forget a process that never became the program."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{uid}/starting", dir_fd=runtime_fd)


def write_exit(runtime_fd: int, uid: str, *, attempt: int, status: int | None) -> None:
    """Record an end. A sandbox whose directory is gone needs none."""
    with contextlib.suppress(FileNotFoundError):
        _write(
            runtime_fd,
            f"{uid}/exit",
            {"version": VERSION, "attempt": attempt, "status": status, "finished_ns": time.time_ns()},
        )


def read_process(runtime_fd: int, uid: str) -> Process | None:
    """The process record, or None when there is none, or one of another version."""
    for name in ("starting", "process"):  # of two starts the newer one counts
        raw = _read(runtime_fd, f"{uid}/{name}")
        if raw is not None:
            return Process(**raw, started=name == "process")
    return None


def read_exit(runtime_fd: int, uid: str) -> Exit | None:
    """The record of the last end, or None."""
    raw = _read(runtime_fd, f"{uid}/exit")
    return Exit(**raw) if raw is not None else None


def has_exit(runtime_fd: int, uid: str, *, attempt: int) -> bool:
    """Whether the end of start number *attempt* is recorded."""
    found = read_exit(runtime_fd, uid)
    return found is not None and found.attempt == attempt


def open_process(record: Process) -> int | None:
    """A pidfd of exactly the recorded process, or None when it is not there any more."""
    if record.boot_id != BOOT_ID:
        return None
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if read_start_ticks(record.pid) == record.start_ticks:
        return pidfd
    os.close(pidfd)
    return None


def read_zombie_status(pid: int) -> int | None:
    """The wait status of a dead process that its parent has not reaped yet (proc_pid_stat(5), field 52); None when it is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = content[content.rindex(b")") + 2 :].split()
    return int(fields[49]) if fields[0] == b"Z" else None


def is_own_program(pid: int) -> bool:
    """Whether process *pid* still runs this interpreter: a child that has not reached its program."""
    with contextlib.suppress(OSError):
        theirs, ours = os.stat(f"/proc/{pid}/exe"), os.stat("/proc/self/exe")
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return False


def read_start_ticks(pid: int) -> int | None:
    """When process *pid* started, in clock ticks since boot; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(content[content.rindex(b")") + 2 :].split()[19])


def _write(runtime_fd: int, path: str, body: dict[str, Any]) -> None:
    temporary = path + ".tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=runtime_fd)
    try:
        os.write(fd, json.dumps(body).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path, src_dir_fd=runtime_fd, dst_dir_fd=runtime_fd)


def _read(runtime_fd: int, path: str) -> dict[str, Any] | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=runtime_fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            raw: dict[str, Any] = json.loads(file.read())
        except ValueError:
            return None
    return raw if raw.pop("version", None) == VERSION else None
