"""Steps from what is to what is wanted. Pure: no clock, no kernel, no API; the plan is data that can be printed.

One function serves create, update, stop, restart, deletion, adoption and resync. Same input twice: the second plan is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

from skerry_api.sandbox import NetworkMode, OnIdle, RestartPolicy, TerminationReason
from skerry_node.model import Desired, Ended, Life, Limits, Observed, Running
from skerry_node.network import policy

OVER = frozenset({TerminationReason.EXPIRED, TerminationReason.IDLE_TIMEOUT})
"""Ends by time: no policy starts anything after them."""
UNKNOWN_END_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do for one sandbox. Every step can be repeated."""

    uid: str


class EnsureRuntime(Step):
    """Make the runtime directory, with the life that status tells of."""


class AcquireLease(Step):
    """Take a slot: a prepared shell's when one fits, else a free one."""


@dataclass(frozen=True, slots=True)
class EnsureCgroup(Step):
    """Make the cgroups, with limits."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class WriteLimits(Step):
    """Change the limits of living cgroups."""

    limits: Limits


class EnsurePolicy(Step):
    """Have the rules of the network hold the sandbox to its egress policy."""


class EnsureWritable(Step):
    """Make the writable layer; one that is there keeps its files."""


class EnsureVolumes(Step):
    """Have every volume there; those that are keep their files, and objects of the cluster are read anew."""


class PublishPorts(Step):
    """Have the node's ports lead to the sandbox as its manifest says, and no others."""


class WithdrawPorts(Step):
    """Have no port of the node lead to it."""


class StartProcess(Step):
    """Have the keeper start the program."""


@dataclass(frozen=True, slots=True)
class BeginStop(Step):
    """Ask the program to stop, and note when and why."""

    reason: TerminationReason


class Freeze(Step):
    """Hold every process of the sandbox still."""


class FallAsleep(Step):
    """Note that the sandbox sleeps, and hold its processes still, unless something happened meanwhile."""


class Rouse(Step):
    """Note that it sleeps no more."""


class Thaw(Step):
    """Let them go on."""


class KillProcess(Step):
    """Kill every process of the sandbox."""


class ResolveEnd(Step):
    """Find out how a process ended that the keeper did not see end."""


class RecordEnd(Step):
    """Note how the program ended, with what its cgroup counted, and whether it shall run again."""


class MarkAtRest(Step):
    """Note that the sandbox was seen stopped on demand."""


class RemoveCgroup(Step):
    """Remove the empty cgroups."""


class RemoveWritable(Step):
    """Remove the writable layer."""


class RemoveVolumes(Step):
    """Remove the volumes that have a size of their own."""


class RemoveLogs(Step):
    """Remove the output."""


class ReleaseLease(Step):
    """Give the slot back."""


class RemoveRuntime(Step):
    """Forget the sandbox on this node."""


class ReleaseObject(Step):
    """Remove the finalizer: nothing is left here."""


class ExpireObject(Step):
    """Delete the object of a finished sandbox whose time is over."""


def plan(desired: Desired | None, observed: Observed) -> tuple[Step, ...]:
    """Steps that bring *observed* to *desired*, in order; empty when they agree, or when only time can help (see `deadline`).

    Teardown runs leaf to root, because a live process or a mounted root pins what lies below it.
    """
    if desired is None or desired.is_deleted:
        return _tear_down(desired, observed)
    process = observed.process
    if isinstance(process, Running):
        return _keep_running(desired, observed, process)
    if isinstance(process, Ended):
        return _settle_end(observed, process)
    if observed.is_stale or (desired.has_past and not observed.has_runtime):
        return (EnsureRuntime(observed.uid),)  # after a reboot: what ended stays ended, also where nothing here remembers it
    if can_start(desired, observed):
        return _start(desired, observed)
    return _rest(desired, observed)


def deadline(desired: Desired | None, observed: Observed) -> float | None:
    """When, in seconds since boot, time alone changes the plan; None when it does not."""
    process, life = observed.process, observed.life
    if isinstance(process, Ended) and not process.is_known:
        return observed.now_seconds + 0.2
    if isinstance(process, Running):
        if life.stopping is not None:
            return life.stopping.since_seconds + (desired.grace_seconds if desired else 0)
        if desired is not None and desired.active_seconds is not None:
            return process.since_seconds + desired.active_seconds
        return None
    if desired is None or desired.is_deleted:
        return None
    if wants_start(desired, observed):
        return life.not_before_seconds
    if desired.seconds_after_finished is not None and life.termination is not None:
        return life.finished_seconds + desired.seconds_after_finished
    return None


def wants_start(desired: Desired, observed: Observed) -> bool:
    """Whether the program should run, leaving aside when and whether it can."""
    life = observed.life
    if not desired.wants_process:
        return False
    return life.termination is None or life.is_at_rest or should_restart(desired.restart_policy, life)


def can_start(desired: Desired, observed: Observed) -> bool:
    """Whether a start is due now."""
    return wants_start(desired, observed) and observed.has_image and observed.now_seconds >= observed.life.not_before_seconds


def should_restart(policy: RestartPolicy, life: Life) -> bool:
    """What the restart policy says of the last end. A life whose time was over is so under every policy."""
    if life.termination is None or life.termination.reason in OVER:
        return False
    if policy is RestartPolicy.ALWAYS:
        return True
    return policy is RestartPolicy.ON_FAILURE and life.termination.exit_code != 0


def _keep_running(desired: Desired, observed: Observed, process: Running) -> tuple[Step, ...]:
    uid, stopping = observed.uid, observed.life.stopping
    if stopping is not None:
        return _force_when_due(observed, grace_seconds=desired.grace_seconds)
    if not desired.wants_process:
        return _begin_stop(observed, process, TerminationReason.STOPPED)
    if desired.active_seconds is not None and observed.now_seconds >= process.since_seconds + desired.active_seconds:
        return _begin_stop(observed, process, TerminationReason.EXPIRED)
    if _has_other_policy(desired, observed):
        return (EnsurePolicy(uid),)
    if observed.has_cgroup and observed.limits != desired.limits:
        return (WriteLimits(uid, desired.limits),)
    if _has_wrong_ports(desired, observed):
        return (PublishPorts(uid),)  # somebody flushed the rules
    is_asleep = observed.life.is_asleep
    if is_asleep and not may_sleep(desired):
        return (Rouse(uid),)
    if is_idle(desired, observed):
        if desired.on_idle is not OnIdle.PAUSE:
            return _begin_stop(observed, process, TerminationReason.IDLE_TIMEOUT)
        return (FallAsleep(uid),)
    if observed.has_cgroup and observed.is_frozen != (desired.is_paused or is_asleep):
        return (Freeze(uid),) if desired.is_paused or is_asleep else (Thaw(uid),)
    return ()


def may_sleep(desired: Desired) -> bool:
    """Whether one that sleeps may go on sleeping: its user has not paused it meanwhile, and still wants it to sleep."""
    return desired.idle_seconds is not None and desired.on_idle is OnIdle.PAUSE and not desired.is_paused


def is_idle(desired: Desired, observed: Observed) -> bool:
    """Whether a running one has been idle for as long as it may be. What is paused is neither idle nor active."""
    since = observed.active_at_seconds
    if desired.idle_seconds is None or since is None or desired.is_paused or observed.life.is_asleep:
        return False
    return observed.now_seconds >= since + desired.idle_seconds


def _has_other_policy(desired: Desired, observed: Observed) -> bool:
    return desired.network is NetworkMode.BRIDGE and observed.slot is not None and observed.policy != policy.digest(desired.egress)


def _begin_stop(observed: Observed, process: Running, reason: TerminationReason) -> tuple[Step, ...]:
    """A first process without a handler never sees a stop signal (pid_namespaces(7)): waiting for it would be waiting for nothing."""
    begin: tuple[Step, ...] = (BeginStop(observed.uid, reason), *_thaw(observed))
    return begin if process.handles_stop_signal else (*begin, KillProcess(observed.uid))


def _force_when_due(observed: Observed, *, grace_seconds: float) -> tuple[Step, ...]:
    stopping = observed.life.stopping
    if stopping is None or observed.now_seconds < stopping.since_seconds + grace_seconds:
        return _thaw(observed)
    return (KillProcess(observed.uid),)


def _thaw(observed: Observed) -> tuple[Step, ...]:
    """What is held still hears no signal."""
    return (Thaw(observed.uid),) if observed.is_frozen else ()


def _settle_end(observed: Observed, process: Ended) -> tuple[Step, ...]:
    if not process.is_known:
        return (ResolveEnd(observed.uid),)
    steps: list[Step] = [RecordEnd(observed.uid)]
    if observed.has_cgroup:  # its counters are noted now; a next start counts from zero
        steps += [KillProcess(observed.uid), RemoveCgroup(observed.uid)]
    return tuple(steps)


def _start(desired: Desired, observed: Observed) -> tuple[Step, ...]:
    uid = observed.uid
    steps: list[Step] = []
    if not observed.has_runtime:
        steps.append(EnsureRuntime(uid))
    if observed.slot is None:
        steps.append(AcquireLease(uid))
    elif _has_other_policy(desired, observed):  # a slot that is taken comes with the policy
        steps.append(EnsurePolicy(uid))
    if not observed.has_cgroup or observed.limits != desired.limits:
        steps.append(EnsureCgroup(uid, desired.limits))
    steps.append(EnsureWritable(uid))
    if desired.has_volumes:
        steps.append(EnsureVolumes(uid))
    if _has_wrong_ports(desired, observed):
        steps.append(PublishPorts(uid))
    return (*steps, StartProcess(uid))


def _has_wrong_ports(desired: Desired, observed: Observed) -> bool:
    """Whether what the node publishes is not what is wanted; a half of what nobody wants is wrong, too."""
    return observed.ports != desired.ports or (observed.has_ports and not desired.ports)


def _rest(desired: Desired, observed: Observed) -> tuple[Step, ...]:
    """Nothing runs and nothing shall start now: free what only a process needs. Files, their slot, output and the last end stay."""
    uid, life = observed.uid, observed.life
    steps: list[Step] = []
    if observed.has_cgroup:
        steps += [KillProcess(uid), RemoveCgroup(uid)]
    if observed.has_ports and not wants_start(desired, observed):  # one that only waits for its next start keeps them
        steps.append(WithdrawPorts(uid))
    if not observed.has_runtime:
        steps.append(EnsureRuntime(uid))
    elif not desired.wants_process and not life.is_at_rest:
        steps.append(MarkAtRest(uid))
    expires = desired.seconds_after_finished
    if life.termination is not None and life.termination.reason == TerminationReason.IDLE_TIMEOUT and desired.on_idle is OnIdle.DELETE:
        expires = 0 if desired.expires_objects else None
    is_finished = life.termination is not None and not wants_start(desired, observed)
    if expires is not None and is_finished and observed.now_seconds >= life.finished_seconds + expires:
        steps.append(ExpireObject(uid))
    return tuple(steps)


def _tear_down(desired: Desired | None, observed: Observed) -> tuple[Step, ...]:
    uid, process = observed.uid, observed.process
    if isinstance(process, Running):
        if desired is None:
            return (KillProcess(uid),)
        if observed.life.stopping is None:
            return _begin_stop(observed, process, TerminationReason.STOPPED)
        return _force_when_due(observed, grace_seconds=desired.grace_seconds)
    if isinstance(process, Ended) and not process.is_known:
        return (ResolveEnd(uid),)
    steps: list[Step] = []
    if observed.has_cgroup:
        steps += [KillProcess(uid), RemoveCgroup(uid)]
    if observed.has_ports:
        steps.append(WithdrawPorts(uid))
    if observed.has_volumes:
        steps.append(RemoveVolumes(uid))
    if observed.has_writable:
        steps.append(RemoveWritable(uid))
    if observed.has_logs:
        steps.append(RemoveLogs(uid))
    if observed.slot is not None:
        steps.append(ReleaseLease(uid))
    if observed.has_runtime:
        steps.append(RemoveRuntime(uid))
    if desired is not None:
        steps.append(ReleaseObject(uid))
    return tuple(steps)
