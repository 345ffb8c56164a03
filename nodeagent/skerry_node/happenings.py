"""Which Event a change of status is worth: one for each transition that a person asks about, none for the rest. Pure.

A restart is one transition with two sides: that the program ended, with its true reason, and later that it started again.
"""

from __future__ import annotations

from dataclasses import dataclass

from skerry_api.sandbox import SandboxStatus, TerminationReason

_NORMAL = frozenset({"Starting", "Stopped", "Completed", "Paused", "Expired", "Idle"})
"""Reasons that somebody asked for."""


@dataclass(frozen=True, slots=True)
class Happening:
    """What to tell."""

    reason: str
    message: str
    is_warning: bool


def find(previous: SandboxStatus, status: SandboxStatus, *, image: str, silent: frozenset[str]) -> Happening | None:
    """What became of a sandbox between *previous* and *status*; None when nobody asks. *silent* are reasons that others tell of."""
    reason, message = _ready(status)
    was, _ = _ready(previous)
    end = status.termination
    if end is not None and end != previous.termination and status.restarts > previous.restarts:
        text = end.message or (f"exit code {end.exit_code}" if end.exit_code is not None else "ended")
        return Happening(end.reason.value, f"{text}; restart {status.restarts}", is_warning=end.reason is not TerminationReason.COMPLETED)
    if reason == "Running" and (was != reason or status.started_at != previous.started_at):
        if was == "Paused":
            return Happening("Resumed", "desiredState is Running", is_warning=False)
        return Happening("Started", f"{image} started in {status.start_duration_milliseconds} ms", is_warning=False)
    if reason == was or reason in silent:
        return None
    return Happening(reason, message, is_warning=reason not in _NORMAL)


def _ready(status: SandboxStatus) -> tuple[str, str]:
    """Reason and message of the condition Ready; empty while there is none."""
    return next(((condition.reason, condition.message) for condition in status.conditions if condition.type == "Ready"), ("", ""))
