"""Claims about a sandbox's status that people wait for. Pure; the reasons are those that report.py writes."""

from __future__ import annotations

from skerry_api.conditions import Condition
from skerry_api.sandbox import DesiredState, RestartPolicy, Sandbox, TerminationReason

_STOPPED = "Stopped"
_NO_IMAGE = frozenset({"ImageNotFound", "ImagePullFailed", "InvalidImageName"})
"""A pull is tried again, but what failed once mostly needs somebody: a name, a credential, a registry."""


def is_ready(sandbox: Sandbox) -> bool:
    """Whether the program runs, by a status that has seen the present spec."""
    ready = _find_ready(sandbox)
    return ready is not None and ready.status == "True"


def is_finished(sandbox: Sandbox) -> bool:
    """Whether it has ended, or could not be started, and will not run again unless somebody does something.

    What the agent tries again by itself (BackOff, a keeper just lost, no free address) is not finished.
    """
    ready, termination = _find_ready(sandbox), sandbox.status.termination
    if ready is None or ready.status != "False":
        return False
    if ready.reason == _STOPPED:  # a status written before `start` was seen may still say so
        return sandbox.spec.desired_state is DesiredState.STOPPED
    if termination is None:
        return ready.reason in _NO_IMAGE
    if termination.reason is TerminationReason.START_FAILED:
        return sandbox.spec.restart_policy is RestartPolicy.NEVER
    return ready.reason == termination.reason or ready.reason in _NO_IMAGE


def _find_ready(sandbox: Sandbox) -> Condition | None:
    """The condition Ready, when the status has seen the present spec."""
    status = sandbox.status
    if (status.observed_generation or 0) < sandbox.metadata.generation:
        return None
    return next((condition for condition in status.conditions if condition.type == "Ready"), None)
