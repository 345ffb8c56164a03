"""The agent's own record of a sandbox: `life` in its runtime directory. Versioned; written beside, then renamed; never synced."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from typing import Any

from skerry_api.sandbox import SandboxStatus, Termination, TerminationReason
from skerry_node.keeper import records
from skerry_node.model import Life, Stopping

VERSION = 1
_ALIVE = frozenset({"Paused", "Idle", TerminationReason.NODE_LOST.value})


def write(runtime_fd: int, uid: str, life: Life, *, name: str) -> None:
    """Put *life* on record; *name* (namespace/name) is for people who look. The directory exists."""
    body = {"version": VERSION, "name": name, "boot_id": records.BOOT_ID, **dataclasses.asdict(life)}
    path, temporary = f"{uid}/life", f"{uid}/life.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=runtime_fd)
    try:
        os.write(fd, json.dumps(body).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path, src_dir_fd=runtime_fd, dst_dir_fd=runtime_fd)


def read(runtime_fd: int, uid: str) -> Life | None:
    """The life on record, or None when there is none of this boot that this version understands."""
    raw = _read(runtime_fd, uid)
    if raw is None or raw.pop("boot_id", records.BOOT_ID) != records.BOOT_ID:
        return None
    raw.pop("name", None)
    termination, stopping = raw.pop("termination"), raw.pop("stopping")
    return Life(
        **raw,
        termination=_parse_termination(termination) if termination is not None else None,
        stopping=Stopping(**stopping) if stopping is not None else None,
    )


def is_stale(runtime_fd: int, uid: str) -> bool:
    """Whether the record is of another boot, so that its times and processes mean nothing: a runtime directory that a reboot did not empty."""
    raw = _read(runtime_fd, uid)
    return raw is not None and raw.get("boot_id", records.BOOT_ID) != records.BOOT_ID


def forget_processes(runtime_fd: int, uid: str) -> None:
    """Drop what a stale directory tells of processes: numbers of starts begin anew."""
    for name in ("starting", "process", "exit"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{uid}/{name}", dir_fd=runtime_fd)


def _read(runtime_fd: int, uid: str) -> dict[str, Any] | None:
    try:
        fd = os.open(f"{uid}/life", os.O_RDONLY | os.O_CLOEXEC, dir_fd=runtime_fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            raw: dict[str, Any] = json.loads(file.read())
        except ValueError:
            return None
    return raw if raw.pop("version", None) == VERSION else None


def from_status(status: SandboxStatus, *, now_iso: str, now_seconds: float) -> Life:
    """The life of a sandbox whose record is gone: a reboot ended what status says was alive. *now_iso* is UTC, *now_seconds* since boot.

    Ends are counted from status, by the wall clock: nothing else outlives a reboot. An end before boot is at less than 0 s.
    """
    termination = status.termination
    if status.started_at is None:
        return Life(
            restarts=status.restarts, termination=termination, start_problem=_start_problem(status),
            finished_seconds=_finished_seconds(termination, now_iso=now_iso, now_seconds=now_seconds),
        )  # fmt: skip
    if termination is None or _was_alive(status):
        termination = Termination(
            reason=TerminationReason.NODE_REBOOTED,
            exit_code=None,
            signal=None,
            message="the node lost its runtime state while this ran: it was rebooted",
            peak_memory_bytes=None,
            finished_at=now_iso,
        )
    return Life(
        restarts=status.restarts,
        started_ns=_parse_time(status.started_at),
        start_milliseconds=status.start_duration_milliseconds or 0,
        is_warm=status.launch_type == "Warm",
        termination=termination,
        is_at_rest=_start_problem(status) == "Stopped",
        start_problem=_start_problem(status),
        finished_seconds=_finished_seconds(termination, now_iso=now_iso, now_seconds=now_seconds),
    )


def _finished_seconds(termination: Termination | None, *, now_iso: str, now_seconds: float) -> float:
    if termination is None or not termination.finished_at:
        return now_seconds
    return now_seconds - max(_parse_time(now_iso) - _parse_time(termination.finished_at), 0) / 1e9


def _parse_time(text: str) -> int:
    """RFC 3339 as nanoseconds of Unix time; exact for what `report.render_time` wrote."""
    since = datetime.datetime.fromisoformat(text) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since // datetime.timedelta(microseconds=1) * 1000


def _start_problem(status: SandboxStatus) -> str:
    return next((condition.reason for condition in status.conditions if condition.type == "Ready" and condition.status == "False"), "")


def _was_alive(status: SandboxStatus) -> bool:
    """Whether a process lived when this was written, as far as anybody knew: one on a lost node did."""
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    return ready is not None and (ready.status == "True" or ready.reason in _ALIVE)


def _parse_termination(raw: dict[str, Any]) -> Termination:
    return Termination(**{**raw, "reason": TerminationReason(raw["reason"])})
