"""Steps from what is to what is wanted. Pure: no clock, no kernel, no API; the plan is data that can be printed.

One function serves create, update, stop, restart, deletion, adoption and resync. Same input twice: the second plan is empty.
"""

from __future__ import annotations

from skerry_api.sandbox import NetworkMode, OnIdle, RestartPolicy, TerminationReason
from skerry_node import steps
from skerry_node.model import Desired, Ended, Life, Observed, Running
from skerry_node.network import policy, rates

OVER = frozenset({TerminationReason.EXPIRED, TerminationReason.IDLE_TIMEOUT})
"""Ends by time: no policy starts anything after them."""
UNKNOWN_END_SECONDS = 3.0


def plan(desired: Desired | None, observed: Observed) -> tuple[steps.Step, ...]:
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
        return (steps.EnsureRuntime(observed.uid),)  # after a reboot: what ended stays ended, also where nothing here remembers it
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


def _keep_running(desired: Desired, observed: Observed, process: Running) -> tuple[steps.Step, ...]:
    uid, stopping = observed.uid, observed.life.stopping
    if stopping is not None:
        return _force_when_due(observed, grace_seconds=desired.grace_seconds)
    if not desired.wants_process:
        return _begin_stop(observed, process, TerminationReason.STOPPED)
    if desired.active_seconds is not None and observed.now_seconds >= process.since_seconds + desired.active_seconds:
        return _begin_stop(observed, process, TerminationReason.EXPIRED)
    if _has_other_policy(desired, observed):
        return (steps.EnsurePolicy(uid),)
    if desired.network is NetworkMode.BRIDGE and observed.rates != rates.rates(desired.bandwidth):
        return (steps.EnsureBandwidth(uid),)
    if observed.has_cgroup and observed.limits != desired.limits:
        return (steps.WriteLimits(uid, desired.limits),)
    if observed.has_writable and observed.disk_bytes != desired.disk_bytes:
        return (steps.WriteDisk(uid, desired.disk_bytes),)
    if _has_wrong_ports(desired, observed):
        return (steps.PublishPorts(uid),)  # somebody flushed the rules
    is_asleep = observed.life.is_asleep
    if is_asleep and not may_sleep(desired):
        return (steps.Rouse(uid),)
    if is_idle(desired, observed):
        if desired.on_idle is not OnIdle.PAUSE:
            return _begin_stop(observed, process, TerminationReason.IDLE_TIMEOUT)
        return (steps.FallAsleep(uid),)
    if observed.has_cgroup and observed.is_frozen != (desired.is_paused or is_asleep):
        return (steps.Freeze(uid),) if desired.is_paused or is_asleep else (steps.Thaw(uid),)
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


def _begin_stop(observed: Observed, process: Running, reason: TerminationReason) -> tuple[steps.Step, ...]:
    """A first process without a handler never sees a stop signal (pid_namespaces(7)): waiting for it would be waiting for nothing."""
    begin: tuple[steps.Step, ...] = (steps.BeginStop(observed.uid, reason), *_thaw(observed))
    return begin if process.handles_stop_signal else (*begin, steps.KillProcess(observed.uid))


def _force_when_due(observed: Observed, *, grace_seconds: float) -> tuple[steps.Step, ...]:
    stopping = observed.life.stopping
    if stopping is None or observed.now_seconds < stopping.since_seconds + grace_seconds:
        return _thaw(observed)
    return (steps.KillProcess(observed.uid),)


def _thaw(observed: Observed) -> tuple[steps.Step, ...]:
    """What is held still hears no signal."""
    return (steps.Thaw(observed.uid),) if observed.is_frozen else ()


def _settle_end(observed: Observed, process: Ended) -> tuple[steps.Step, ...]:
    if not process.is_known:
        return (steps.ResolveEnd(observed.uid),)
    todo: list[steps.Step] = [steps.RecordEnd(observed.uid)]
    if observed.has_cgroup:  # its counters are noted now; a next start counts from zero
        todo += [steps.KillProcess(observed.uid), steps.RemoveCgroup(observed.uid)]
    return tuple(todo)


def _start(desired: Desired, observed: Observed) -> tuple[steps.Step, ...]:
    uid = observed.uid
    todo: list[steps.Step] = []
    if not observed.has_runtime:
        todo.append(steps.EnsureRuntime(uid))
    if observed.slot is None:
        todo.append(steps.AcquireLease(uid))
    elif _has_other_policy(desired, observed):  # a slot that is taken comes with the policy
        todo.append(steps.EnsurePolicy(uid))
    todo.append(steps.EnsureWritable(uid, desired.disk_bytes))
    if not observed.has_cgroup or observed.limits != desired.limits:
        todo.append(steps.EnsureCgroup(uid, desired.limits))  # after the layer, whose device it limits
    if desired.has_volumes:
        todo.append(steps.EnsureVolumes(uid))
    if _has_wrong_ports(desired, observed):
        todo.append(steps.PublishPorts(uid))
    return (*todo, steps.StartProcess(uid))


def _has_wrong_ports(desired: Desired, observed: Observed) -> bool:
    """Whether what the node publishes is not what is wanted; a half of what nobody wants is wrong, too."""
    return observed.ports != desired.ports or (observed.has_ports and not desired.ports)


def _rest(desired: Desired, observed: Observed) -> tuple[steps.Step, ...]:
    """Nothing runs and nothing shall start now: free what only a process needs. Files, their slot, output and the last end stay."""
    uid, life = observed.uid, observed.life
    todo: list[steps.Step] = []
    if observed.has_cgroup:
        todo += [steps.KillProcess(uid), steps.RemoveCgroup(uid)]
    if observed.has_ports and not wants_start(desired, observed):  # one that only waits for its next start keeps them
        todo.append(steps.WithdrawPorts(uid))
    if not observed.has_runtime:
        todo.append(steps.EnsureRuntime(uid))
    elif not desired.wants_process and not life.is_at_rest:
        todo.append(steps.MarkAtRest(uid))
    expires = desired.seconds_after_finished
    if life.termination is not None and life.termination.reason == TerminationReason.IDLE_TIMEOUT and desired.on_idle is OnIdle.DELETE:
        expires = 0 if desired.expires_objects else None
    is_finished = life.termination is not None and not wants_start(desired, observed)
    if expires is not None and is_finished and observed.now_seconds >= life.finished_seconds + expires:
        todo.append(steps.ExpireObject(uid))
    return tuple(todo)


def _tear_down(desired: Desired | None, observed: Observed) -> tuple[steps.Step, ...]:
    uid, process = observed.uid, observed.process
    if isinstance(process, Running):
        if desired is None:
            return (steps.KillProcess(uid),)
        if observed.life.stopping is None:
            return _begin_stop(observed, process, TerminationReason.STOPPED)
        return _force_when_due(observed, grace_seconds=desired.grace_seconds)
    if isinstance(process, Ended) and not process.is_known:
        return (steps.ResolveEnd(uid),)
    todo: list[steps.Step] = []
    if observed.has_cgroup:
        todo += [steps.KillProcess(uid), steps.RemoveCgroup(uid)]
    if observed.has_ports:
        todo.append(steps.WithdrawPorts(uid))
    if observed.has_volumes:
        todo.append(steps.RemoveVolumes(uid))
    if observed.has_writable:
        todo.append(steps.RemoveWritable(uid))
    if observed.has_logs:
        todo.append(steps.RemoveLogs(uid))
    if observed.slot is not None:
        todo.append(steps.ReleaseLease(uid))
    if observed.has_runtime:
        todo.append(steps.RemoveRuntime(uid))
    if desired is not None:
        todo.append(steps.ReleaseObject(uid))
    return tuple(todo)
