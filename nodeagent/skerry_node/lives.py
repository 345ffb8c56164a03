"""The agent's own record of a sandbox: `life` in its runtime directory. Versioned; written beside, then renamed; never synced."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from typing import Any

from skerry_api.sandbox import Phase, SandboxStatus, Termination, TerminationReason
from skerry_node.model import Life, Stopping

VERSION = 1


def write(runtime_fd: int, uid: str, life: Life, *, name: str) -> None:
    """Put *life* on record; *name* (namespace/name) is for people who look. The directory exists."""
    body = {"version": VERSION, "name": name, **dataclasses.asdict(life)}
    path, temporary = f"{uid}/life", f"{uid}/life.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=runtime_fd)
    try:
        os.write(fd, json.dumps(body).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path, src_dir_fd=runtime_fd, dst_dir_fd=runtime_fd)


def read(runtime_fd: int, uid: str) -> Life | None:
    """The life on record, or None when there is none that this version understands."""
    try:
        fd = os.open(f"{uid}/life", os.O_RDONLY | os.O_CLOEXEC, dir_fd=runtime_fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            raw: dict[str, Any] = json.loads(file.read())
        except ValueError:
            return None
    if raw.pop("version", None) != VERSION:
        return None
    raw.pop("name", None)
    termination, stopping = raw.pop("termination"), raw.pop("stopping")
    return Life(
        **raw,
        termination=_parse_termination(termination) if termination is not None else None,
        stopping=Stopping(**stopping) if stopping is not None else None,
    )


def from_status(status: SandboxStatus, *, now_iso: str) -> Life:
    """The life of a sandbox whose record is gone: a reboot ended what status says was running."""
    if status.started_at is None:
        return Life(restarts=status.restarts, termination=status.termination, start_problem=_start_problem(status))
    termination = status.termination
    if termination is None or _is_running(status):
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
        is_at_rest=status.phase is Phase.STOPPED,
        start_problem=_start_problem(status),
    )


def _parse_time(text: str) -> int:
    """RFC 3339 as nanoseconds of Unix time; exact for what `report.render_time` wrote."""
    since = datetime.datetime.fromisoformat(text) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since // datetime.timedelta(microseconds=1) * 1000


def _start_problem(status: SandboxStatus) -> str:
    return next((condition.reason for condition in status.conditions if condition.type == "Ready" and condition.status == "False"), "")


def _is_running(status: SandboxStatus) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions)


def _parse_termination(raw: dict[str, Any]) -> Termination:
    return Termination(**{**raw, "reason": TerminationReason(raw["reason"])})
