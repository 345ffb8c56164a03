"""What to say of a sandbox: its status from what is seen, and the reason of an end from what was counted. Pure."""

from __future__ import annotations

import datetime
import os
import signal
from dataclasses import dataclass

from skerry_api.conditions import Condition, merge_conditions
from skerry_api.sandbox import (
    DesiredState,
    Phase,
    RestartPolicy,
    Sandbox,
    SandboxStatus,
    Termination,
    TerminationReason,
)
from skerry_node import plan
from skerry_node.model import Desired, Life, Limits, Observed, Problem, Running

_TRUE, _FALSE, _UNKNOWN = "True", "False", "Unknown"
_STOPS = {TerminationReason.EXPIRED: "ttl.activeSeconds is over", TerminationReason.IDLE_TIMEOUT: "it was idle for ttl.idleSeconds"}
_SHELL_OFFSET = 128
"""An exit code says "ended by signal n" as 128 + n (POSIX shells, 2.8.2)."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the kernel counted over one life of a cgroup."""

    oom_kills: int = 0
    peak_memory_bytes: int | None = None
    forks_refused: int = 0
    full: str = ""
    """What of it is full, for people; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What status tells besides the observation: image and addresses, found when the process was started."""

    image_digest: str | None = None
    addresses: tuple[str, ...] = ()


def classify(status: int | None, *, life: Life, counted: Counted, finished_ns: int, limits: Limits) -> Termination:
    """The truth about an end: *status* is a wait status, None when it is unknown."""
    exit_code, signal_name = decode(status)
    reason, message = _reason(status, exit_code, life, counted, limits)
    return Termination(
        reason=reason,
        exit_code=exit_code,
        signal=signal_name,
        message=message,
        peak_memory_bytes=counted.peak_memory_bytes,
        finished_at=render_time(finished_ns),
    )


def decode(status: int | None) -> tuple[int | None, str | None]:
    """Exit code (128 + n for signal n) and the signal's name."""
    if status is None:
        return None, None
    code = os.waitstatus_to_exitcode(status & 0xFF7F if status & 0x7F else status)
    if code >= 0:
        return code, None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"SIG{-code}"  # a real-time signal
    return _SHELL_OFFSET - code, name


def render_time(nanoseconds: int) -> str:
    """Unix time as RFC 3339 in UTC, to the microsecond."""
    moment = datetime.datetime.fromtimestamp(nanoseconds // 1000 / 1e6, tz=datetime.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def status(sandbox: Sandbox, desired: Desired, observed: Observed, *, problem: Problem | None, facts: Facts, now: str) -> SandboxStatus:
    """The whole status of *sandbox*. Times of conditions that did not change are kept from the one it has."""
    old, life = sandbox.status, observed.life
    generation = sandbox.metadata.generation
    conditions = tuple(
        Condition(
            type=kind,
            status=value,
            reason=reason,
            message=message,
            last_transition_time=now,
            observed_generation=generation,
        )
        for kind, value, reason, message in _conditions(sandbox, desired, observed, problem)
    )
    return SandboxStatus(
        observed_generation=generation,
        phase=_phase(sandbox, desired, observed, problem),
        conditions=merge_conditions(old.conditions, conditions),
        image_reference=sandbox.spec.image,
        image_digest=facts.image_digest or old.image_digest,
        address=next(iter(facts.addresses), None) if isinstance(observed.process, Running) else None,
        addresses=facts.addresses if isinstance(observed.process, Running) else (),
        started_at=render_time(life.started_ns) if life.started_ns else None,
        start_duration_milliseconds=life.start_milliseconds if life.started_ns else None,
        launch_type=("Warm" if life.is_warm else "Cold") if life.started_ns else None,
        restarts=life.restarts,
        termination=life.termination,
    )


def _reason(status: int | None, exit_code: int | None, life: Life, counted: Counted, limits: Limits) -> tuple[TerminationReason, str]:
    if life.stopping is not None:
        reason = TerminationReason(life.stopping.reason)
        return reason, _STOPS.get(reason, "stopped on demand")
    if status is None:
        return TerminationReason.KEEPER_LOST, "the keeper died with this process, and nobody read how it ended"
    if counted.oom_kills and exit_code == _SHELL_OFFSET + signal.SIGKILL:
        held = f" of {limits.memory_bytes} bytes" if limits.memory_bytes is not None else ""
        return TerminationReason.OOM_KILLED, f"the kernel killed it at its memory limit{held}"
    if exit_code == 0:
        return TerminationReason.COMPLETED, ""
    if counted.forks_refused:
        held = f" of {limits.pids}" if limits.pids is not None else ""
        return (
            TerminationReason.PIDS_LIMIT,
            f"exit code {exit_code}, after {counted.forks_refused} forks were refused at its pids limit{held}",
        )
    if counted.full:
        return TerminationReason.DISK_FULL, f"exit code {exit_code}, with {counted.full} full"
    return TerminationReason.ERROR, f"exit code {exit_code}"


def _phase(sandbox: Sandbox, desired: Desired, observed: Observed, problem: Problem | None) -> Phase:
    if isinstance(observed.process, Running):
        return Phase.PAUSED if observed.is_frozen else Phase.RUNNING
    life = observed.life
    if life.is_at_rest or sandbox.spec.desired_state is DesiredState.STOPPED:
        return Phase.STOPPED
    if life.termination is not None and not plan.wants_start(desired, observed):
        return Phase.SUCCEEDED if life.termination.reason == TerminationReason.COMPLETED else Phase.FAILED
    if problem is not None and problem.is_lasting:
        return Phase.FAILED
    return Phase.CREATING


def _conditions(sandbox: Sandbox, desired: Desired, observed: Observed, problem: Problem | None) -> tuple[tuple[str, str, str, str], ...]:
    is_running = isinstance(observed.process, Running)
    made = _TRUE if is_running else _FALSE
    idle = _idle_reason(sandbox, desired, observed)
    failed = problem.condition if problem is not None and not is_running else ""
    rows = [
        ("Scheduled", _TRUE, "Bound", ""),
        (
            "ImageReady",
            _TRUE if observed.has_image else _FALSE,
            "Present" if observed.has_image else "ImageNotFound",
            "",
        ),
        ("RootfsReady", made, "Mounted" if is_running else idle[0], ""),
        ("NetworkReady", made, "Configured" if is_running else idle[0], ""),
        _ready(observed, desired, problem) if is_running else ("Ready", _FALSE, *idle),
    ]
    if problem is None or is_running:
        return tuple(rows)
    return tuple(
        (kind, _FALSE, problem.reason, problem.message) if kind in {failed, "Ready"} else (kind, value, reason, message)
        for kind, value, reason, message in rows
    )


def _ready(observed: Observed, desired: Desired, problem: Problem | None) -> tuple[str, str, str, str]:
    """Of a sandbox whose process lives."""
    if observed.is_frozen and observed.life.is_asleep:
        return "Ready", _FALSE, "Idle", "idle for ttl.idleSeconds; the next exec or packet wakes it"
    if observed.is_frozen:
        return "Ready", _FALSE, "Paused", "desiredState is Paused"
    is_told = problem is not None and (desired.is_paused or problem.reason == "LimitRefused")
    return "Ready", _TRUE, "Running", problem.message if problem is not None and is_told else ""


def _idle_reason(sandbox: Sandbox, desired: Desired, observed: Observed) -> tuple[str, str]:
    """Why nothing runs, when nothing is wrong."""
    termination = observed.life.termination
    if observed.life.is_at_rest or sandbox.spec.desired_state is DesiredState.STOPPED:
        return "Stopped", "desiredState is Stopped"
    if termination is None:
        return "Starting", ""
    if plan.wants_start(desired, observed) and desired.restart_policy is not RestartPolicy.NEVER:
        return "BackOff", f"restarting after {termination.reason}"
    reason = str(termination.reason)
    if termination.reason == TerminationReason.START_FAILED and observed.life.start_problem:
        reason = observed.life.start_problem  # as it was first said: a second look has nothing else to say
    return reason, termination.message or ""
