"""Claims about a sandbox's status that people wait for. Pure; the reasons are those that report.py writes."""

from __future__ import annotations

from skerry_api.conditions import Condition
from skerry_api.sandbox import DesiredState, Sandbox

_UNDERWAY = frozenset({"Starting", "BackOff"})
_STOPPED = "Stopped"


def is_ready(sandbox: Sandbox) -> bool:
    """Whether the program runs, by a status that has seen the present spec."""
    ready = _find_ready(sandbox)
    return ready is not None and ready.status == "True"


def is_finished(sandbox: Sandbox) -> bool:
    """Whether it has ended, or could not be started, and will not run again soon unless somebody does something."""
    ready = _find_ready(sandbox)
    if ready is None or ready.status != "False" or ready.reason in _UNDERWAY:
        return False
    # A status written before `start` was seen may still say Stopped.
    return ready.reason != _STOPPED or sandbox.spec.desired_state is DesiredState.STOPPED


def _find_ready(sandbox: Sandbox) -> Condition | None:
    """The condition Ready, when the status has seen the present spec."""
    status = sandbox.status
    if (status.observed_generation or 0) < sandbox.metadata.generation:
        return None
    return next((condition for condition in status.conditions if condition.type == "Ready"), None)
