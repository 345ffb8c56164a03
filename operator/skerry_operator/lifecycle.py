"""What a sandbox needs from the operator now. Pure: one decision for create, update, restart and resync.

A decision is about the object alone, so that whoever starts in the middle of anything decides the same.
"""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass

from skerry_api import names
from skerry_api.conditions import Condition, merge_conditions
from skerry_api.sandbox import DesiredState, OnIdle, Phase, RestartPolicy, Sandbox, SandboxStatus, Termination, TerminationReason


@dataclass(frozen=True, slots=True)
class Place:
    """Find a node for it."""


@dataclass(frozen=True, slots=True)
class Protect:
    """It is bound without our finalizer, by somebody else: add it, so that its node can clean up."""


@dataclass(frozen=True, slots=True)
class Release:
    """It is being deleted and no node will clean up: take our finalizer away."""


@dataclass(frozen=True, slots=True)
class MarkLost:
    """Its node fell silent: say so."""


@dataclass(frozen=True, slots=True)
class ConfirmScheduled:
    """It is bound, and its condition still says that it could not be."""


@dataclass(frozen=True, slots=True)
class Expire:
    """It finished long enough ago: delete the object."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing now; look again in *seconds*."""

    seconds: float


_ALIVE = frozenset({"Paused", "Idle", TerminationReason.NODE_LOST.value})
"""Reasons of Ready False of a sandbox that lives, as far as anybody knows."""

Action = Place | Protect | Release | MarkLost | ConfirmScheduled | Expire | Wait


def decide(sandbox: Sandbox, *, is_node_lost: bool, now: datetime.datetime) -> Action | None:
    """The one thing to do next, None when all is well. *is_node_lost* speaks of the node that it is bound to."""
    metadata, is_bound = sandbox.metadata, bool(sandbox.spec.node_name)
    has_finalizer = names.FINALIZER in metadata.finalizers
    if metadata.deletion_timestamp:
        return Release() if has_finalizer and (is_node_lost or not is_bound) else None
    if not is_bound:
        return Place()
    if not has_finalizer:
        return Protect()
    scheduled = find_condition(sandbox, "Scheduled")
    if scheduled is not None and scheduled.status == "False":
        return ConfirmScheduled()
    if is_finished(sandbox):
        return _expiry(sandbox, now)
    if is_node_lost and not is_marked_lost(sandbox):
        return MarkLost()
    return None


def is_finished(sandbox: Sandbox) -> bool:
    """Whether its program ended for good: what the restart policy says of an end; a stop on demand is no end, nor is a lost node."""
    end, ready = sandbox.status.termination, find_condition(sandbox, "Ready")
    if end is None or sandbox.spec.desired_state is DesiredState.STOPPED or end.reason is TerminationReason.STOPPED:
        return False
    if ready is not None and (ready.status == "True" or ready.reason in _ALIVE):
        return False
    if end.reason in {TerminationReason.EXPIRED, TerminationReason.IDLE_TIMEOUT} or sandbox.spec.restart_policy is RestartPolicy.NEVER:
        return True
    return sandbox.spec.restart_policy is RestartPolicy.ON_FAILURE and end.exit_code == 0


def takes_room(sandbox: Sandbox) -> bool:
    """Whether scheduling counts it. One whose node is lost may come back with it."""
    return not is_finished(sandbox) or is_marked_lost(sandbox)


def is_marked_lost(sandbox: Sandbox) -> bool:
    """Whether its status says that its node is lost."""
    ready = find_condition(sandbox, "Ready")
    return ready is not None and ready.reason == TerminationReason.NODE_LOST.value


def find_condition(sandbox: Sandbox, kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((each for each in sandbox.status.conditions if each.type == kind), None)


def lost_status(sandbox: Sandbox, *, now: datetime.datetime) -> SandboxStatus:
    """The status of a sandbox whose node fell silent. What it was before stays readable: image, start, restarts."""
    message = f"node {sandbox.spec.node_name} sends no heartbeat"
    ready = _condition(sandbox, "Ready", status="False", reason=TerminationReason.NODE_LOST.value, message=message, now=now)
    return dataclasses.replace(
        _with(sandbox, ready),
        phase=Phase.LOST,
        address=None,
        termination=Termination(reason=TerminationReason.NODE_LOST, message=message, finished_at=render_time(now)),
    )


def scheduled_status(sandbox: Sandbox, *, unschedulable: str | None, now: datetime.datetime) -> SandboxStatus:
    """The status with our condition: bound, or not, and why not."""
    if unschedulable is None:
        return _with(sandbox, _condition(sandbox, "Scheduled", status="True", reason="Bound", message="", now=now))
    return _with(sandbox, _condition(sandbox, "Scheduled", status="False", reason="Unschedulable", message=unschedulable, now=now))


def render_time(moment: datetime.datetime) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _expiry(sandbox: Sandbox, now: datetime.datetime) -> Expire | Wait | None:
    end, stays = sandbox.status.termination, sandbox.spec.ttl.seconds_after_finished
    if end is not None and end.reason is TerminationReason.IDLE_TIMEOUT and sandbox.spec.ttl.on_idle is OnIdle.DELETE:
        return Expire()
    if end is None or stays is None:
        return None
    try:
        finished = datetime.datetime.fromisoformat(end.finished_at or "")
    except ValueError:
        return None
    if finished.tzinfo is None:
        finished = finished.replace(tzinfo=datetime.UTC)
    left = stays - (now - finished).total_seconds()
    return Wait(left) if left > 0 else Expire()


def _condition(sandbox: Sandbox, kind: str, *, status: str, reason: str, message: str, now: datetime.datetime) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=render_time(now),
        observed_generation=sandbox.metadata.generation,
    )


def _with(sandbox: Sandbox, condition: Condition) -> SandboxStatus:
    """The sandbox's status with *condition* in the place of the one of its type."""
    old = sandbox.status.conditions
    (merged,) = merge_conditions(old, [condition])
    if any(each.type == condition.type for each in old):
        return dataclasses.replace(sandbox.status, conditions=tuple(merged if each.type == condition.type else each for each in old))
    return dataclasses.replace(sandbox.status, conditions=(*old, merged))
