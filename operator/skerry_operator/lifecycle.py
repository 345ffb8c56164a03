"""What time and loss do to sandboxes: expiry after their end, and what becomes of those on a lost node. Pure."""

from __future__ import annotations

import dataclasses
import datetime

from skerry_api import names
from skerry_api.conditions import Condition, merge_conditions
from skerry_api.sandbox import Phase, Sandbox, SandboxStatus, Termination, TerminationReason
from skerry_operator import inventory


def is_expired(sandbox: Sandbox, *, now: datetime.datetime) -> bool:
    """Whether a finished sandbox has stayed for its `ttl.secondsAfterFinished`."""
    seconds, end = sandbox.spec.ttl.seconds_after_finished, sandbox.status.termination
    if seconds is None or end is None or end.finished_at is None or sandbox.metadata.deletion_timestamp is not None:
        return False
    if not inventory.is_finished(sandbox):
        return False
    finished = datetime.datetime.fromisoformat(end.finished_at)
    return now >= finished + datetime.timedelta(seconds=seconds)


def must_release(sandbox: Sandbox) -> bool:
    """Whether a sandbox of a lost node waits for a finalizer that nobody there will remove."""
    return sandbox.metadata.deletion_timestamp is not None and names.FINALIZER in sandbox.metadata.finalizers


def lost_status(sandbox: Sandbox, *, now: str) -> SandboxStatus | None:
    """The status of a sandbox whose node is lost; None when it says so already, or when its program had ended before."""
    status = sandbox.status
    if status.phase is Phase.LOST or inventory.is_finished(sandbox):
        return None
    message = f"node {sandbox.spec.node_name} has sent no heartbeat"
    ready = Condition(
        type="Ready", status="Unknown", reason="NodeLost", message=message, last_transition_time=now,
        observed_generation=sandbox.metadata.generation,
    )  # fmt: skip
    others = tuple(condition for condition in status.conditions if condition.type != "Ready")
    return dataclasses.replace(
        status,
        phase=Phase.LOST,
        conditions=merge_conditions(status.conditions, (*others, ready)),
        termination=Termination(reason=TerminationReason.NODE_LOST, message=message, finished_at=now),
    )


def unschedulable_status(sandbox: Sandbox, *, message: str, now: str) -> SandboxStatus | None:
    """The status of a sandbox that no node takes; None when it says so already."""
    scheduled = Condition(
        type="Scheduled", status="False", reason="Unschedulable", message=message, last_transition_time=now,
        observed_generation=sandbox.metadata.generation,
    )  # fmt: skip
    for condition in sandbox.status.conditions:
        if condition.type == "Scheduled" and (condition.status, condition.message) == ("False", message):
            return None
    others = tuple(condition for condition in sandbox.status.conditions if condition.type != "Scheduled")
    return dataclasses.replace(
        sandbox.status,
        observed_generation=sandbox.metadata.generation,
        phase=Phase.PENDING,
        conditions=merge_conditions(sandbox.status.conditions, (scheduled, *others)),
    )
