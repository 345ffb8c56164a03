"""Perform steps. Every function here can be repeated, and undoes nothing: what a crash leaves is seen by the next look."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from skerry_api.sandbox import NetworkMode, Sandbox, TerminationReason
from skerry_node import launching, lives, observe, plan, report
from skerry_node.cgroup import stats
from skerry_node.image.store import Image
from skerry_node.keeper import client, records
from skerry_node.kernel import syscalls
from skerry_node.model import Life, Observed, Stopping
from skerry_node.rootfs import scratch
from skerry_node.settings import Settings
from skerry_node.sources import Source

_LOG = logging.getLogger("skerry.act")
_ENTRIES_AT_ONCE = 200
"""Files of a writable layer that are deleted without leaving the loop: about 10 ms."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A pidfd of exactly one process."""

    pid: int
    start_ticks: int
    pidfd: int


@dataclass(slots=True)
class Hands:
    """What steps work with. `handles` are this agent's own on living sandboxes, for the day the keeper dies."""

    settings: Settings
    view: observe.View
    keeper: client.Client
    source: Source
    bridge_index: int
    shells: set[int] = field(default_factory=set)
    handles: dict[str, Handle] = field(default_factory=dict)


@dataclass(slots=True)
class Case:
    """One sandbox under reconcile: the object (None: an orphan), what is seen, the image when it is known."""

    uid: str
    sandbox: Sandbox | None
    observed: Observed
    image: Image | None
    began: float

    @property
    def name(self) -> str:
        """Namespace and name, for people."""
        return f"{self.sandbox.metadata.namespace}/{self.sandbox.metadata.name}" if self.sandbox is not None else ""


async def perform(hands: Hands, case: Case, step: plan.Step) -> None:
    """Do *step*. Raises OSError, keeper.client.Refused, keeper.client.KeeperLost, errors of the source."""
    await _ACTIONS[type(step)](hands, case, step)


async def _ensure_runtime(hands: Hands, case: Case, _: plan.Step) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(case.uid, 0o700, dir_fd=hands.view.runtime_fd)
    status = case.sandbox.status if case.sandbox is not None else None
    life = lives.from_status(status, now_iso=report.render_time(time.time_ns())) if status is not None else Life()
    _write_life(hands, case, life)


async def _acquire_lease(hands: Hands, case: Case, _: plan.Step) -> None:
    leases = hands.view.leases
    wants_bridge = case.sandbox is not None and case.sandbox.spec.network.mode is NetworkMode.BRIDGE
    if wants_bridge and hands.shells:
        slot = hands.shells.pop()
        leases.hand_over(slot, f"shell-{slot}", case.uid)
        return
    leases.acquire(case.uid)


async def _ensure_cgroup(hands: Hands, case: Case, step: plan.Step) -> None:
    assert isinstance(step, plan.EnsureCgroup)
    hands.view.groups.open(case.uid).ensure(step.limits)


async def _write_limits(hands: Hands, case: Case, step: plan.Step) -> None:
    assert isinstance(step, plan.WriteLimits)
    hands.view.groups.open(case.uid).write_limits(step.limits)


async def _ensure_writable(hands: Hands, case: Case, _: plan.Step) -> None:
    lease = hands.view.leases.find(case.uid)
    if lease is None:
        raise FileNotFoundError(f"the lease of {case.uid} vanished")
    owner, _count_of_ids = hands.view.leases.id_range(lease.slot)
    scratch.ensure_writable(hands.settings.scratch_dir, case.uid, owner=owner)


async def _start_process(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    assert case.image is not None
    lease = hands.view.leases.find(case.uid)
    if lease is None:
        raise FileNotFoundError(f"the lease of {case.uid} vanished")
    life = lives.read(hands.view.runtime_fd, case.uid) or Life()
    order = launching.order(case.sandbox, case.image, hands, slot=lease.slot, attempt=life.attempt)
    started = await hands.keeper.launch(order)
    _hold_process(hands, case.uid)
    kind, seconds = "Warm" if started.warm else "Cold", time.monotonic() - case.began
    _LOG.info("launched uid=%s type=%s keeper_seconds=%.5f seconds=%.5f", case.uid, kind, started.seconds, seconds)
    _write_life(
        hands,
        case,
        dataclasses.replace(
            life,
            started_ns=time.time_ns(),
            start_milliseconds=round((time.monotonic() - case.began) * 1000),
            is_warm=started.warm,
            is_at_rest=False,
            stopping=None,
        ),
    )


async def _begin_stop(hands: Hands, case: Case, step: plan.Step) -> None:
    assert isinstance(step, plan.BeginStop)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    life = dataclasses.replace(case.observed.life, stopping=Stopping(reason=step.reason.value, since_seconds=now))
    _write_life(hands, case, life)
    number = case.image.config.stop_signal if case.image is not None else signal.SIGTERM
    await hands.keeper.signal(case.uid, number)


async def _kill_process(hands: Hands, case: Case, _: plan.Step) -> None:
    with contextlib.suppress(client.KeeperLost):
        await hands.keeper.signal(case.uid, signal.SIGKILL)
    hands.view.groups.open(case.uid).kill()


async def _resolve_end(hands: Hands, case: Case, _: plan.Step) -> None:
    """The keeper tells of every end that it sees. What it does not know of ended between two keepers."""
    state = await hands.keeper.state()
    if case.uid in state.children:
        return
    record = records.read_process(hands.view.runtime_fd, case.uid)
    if record is None or records.has_exit(hands.view.runtime_fd, case.uid, attempt=record.attempt):
        return
    held = hands.handles.get(case.uid)
    status = None
    if held is not None and (held.pid, held.start_ticks) == (record.pid, record.start_ticks):
        status = syscalls.pidfd_exit_status(held.pidfd)
        if status is None:
            status = records.read_zombie_status(record.pid)
    records.write_exit(hands.view.runtime_fd, case.uid, attempt=record.attempt, status=status)


async def _record_end(hands: Hands, case: Case, _: plan.Step) -> None:
    life = lives.read(hands.view.runtime_fd, case.uid) or Life()
    end = records.read_exit(hands.view.runtime_fd, case.uid)
    if end is None or end.attempt != life.attempt:
        return
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    record = records.read_process(hands.view.runtime_fd, case.uid)
    ran = now - record.start_ticks / observe.TICKS_PER_SECOND if record is not None else 0.0
    limits = case.observed.limits
    termination = report.classify(
        end.status,
        life=life,
        counted=_count(hands, case.uid),
        finished_ns=end.finished_ns,
        limit_bytes=limits.memory_bytes if limits is not None else None,
    )
    stopped = life.stopping is not None and life.stopping.reason == TerminationReason.STOPPED
    ended = dataclasses.replace(
        life, attempt=life.attempt + 1, termination=termination, stopping=None, is_at_rest=stopped, finished_seconds=now,
    )  # fmt: skip
    restarts = case.sandbox is not None and not stopped and plan.should_restart(case.sandbox.spec.restart_policy, ended)
    if restarts:
        held = plan.backoff_seconds(life.restarts, ran_seconds=ran)
        ended = dataclasses.replace(ended, restarts=life.restarts + 1, not_before_seconds=now + held)
    _write_life(hands, case, ended)
    _let_process_go(hands, case.uid)


def _count(hands: Hands, uid: str) -> report.Counted:
    try:
        counted = stats.read_stats(hands.view.groups.open(uid))
    except OSError:  # the cgroup vanished: what it counted is lost, the end is not
        return report.Counted()
    return report.Counted(oom_kills=counted.oom_kills, peak_memory_bytes=counted.memory_peak_bytes)


async def _mark_at_rest(hands: Hands, case: Case, _: plan.Step) -> None:
    _write_life(hands, case, dataclasses.replace(case.observed.life, is_at_rest=True, not_before_seconds=0.0))


async def _remove_cgroup(hands: Hands, case: Case, _: plan.Step) -> None:
    """Processes that were just killed leave their cgroup within milliseconds; wait for them a little."""
    found = hands.view.groups.open(case.uid)
    for _attempt in range(100):
        try:
            found.remove()
        except OSError:
            await asyncio.sleep(0.002)
        else:
            return
    found.kill()
    found.remove()


async def _remove_writable(hands: Hands, case: Case, _: plan.Step) -> None:
    """A small one at once; what is left of a large one is deleted beside the loop."""
    if not scratch.remove_writable(hands.settings.scratch_dir, case.uid, entries=_ENTRIES_AT_ONCE):
        await asyncio.to_thread(scratch.sweep_trash, hands.settings.scratch_dir)


async def _remove_logs(hands: Hands, case: Case, _: plan.Step) -> None:
    await asyncio.to_thread(shutil.rmtree, os.path.join(hands.settings.logs_dir, case.uid), ignore_errors=True)


async def _release_lease(hands: Hands, case: Case, _: plan.Step) -> None:
    lease = hands.view.leases.find(case.uid)
    if lease is not None:
        hands.view.leases.release(lease.slot)


async def _remove_runtime(hands: Hands, case: Case, _: plan.Step) -> None:
    _let_process_go(hands, case.uid)
    shutil.rmtree(os.path.join(hands.settings.sandboxes_dir, case.uid), ignore_errors=True)


async def _release_object(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    await hands.source.remove_finalizer(case.sandbox)


async def _expire_object(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    await hands.source.delete(case.sandbox)


def hold_processes(hands: Hands) -> None:
    """Take this agent's own handle on every living sandbox."""
    for uid in os.listdir(hands.view.runtime_fd):
        _hold_process(hands, uid)


def _hold_process(hands: Hands, uid: str) -> None:
    """Keep a handle that is held already: it may be the only one left on a process that has died."""
    record = records.read_process(hands.view.runtime_fd, uid)
    if record is None:
        return
    held = hands.handles.get(uid)
    if held is not None and (held.pid, held.start_ticks) == (record.pid, record.start_ticks):
        return
    _let_process_go(hands, uid)
    pidfd = records.open_process(record)
    if pidfd is not None:
        hands.handles[uid] = Handle(pid=record.pid, start_ticks=record.start_ticks, pidfd=pidfd)


def _let_process_go(hands: Hands, uid: str) -> None:
    held = hands.handles.pop(uid, None)
    if held is not None:
        os.close(held.pidfd)


def _write_life(hands: Hands, case: Case, life: Life) -> None:
    lives.write(hands.view.runtime_fd, case.uid, life, name=case.name)


_Action = Callable[[Hands, Case, plan.Step], Awaitable[None]]
_ACTIONS: dict[type[plan.Step], _Action] = {
    plan.EnsureRuntime: _ensure_runtime,
    plan.AcquireLease: _acquire_lease,
    plan.EnsureCgroup: _ensure_cgroup,
    plan.WriteLimits: _write_limits,
    plan.EnsureWritable: _ensure_writable,
    plan.StartProcess: _start_process,
    plan.BeginStop: _begin_stop,
    plan.KillProcess: _kill_process,
    plan.ResolveEnd: _resolve_end,
    plan.RecordEnd: _record_end,
    plan.MarkAtRest: _mark_at_rest,
    plan.RemoveCgroup: _remove_cgroup,
    plan.RemoveWritable: _remove_writable,
    plan.RemoveLogs: _remove_logs,
    plan.ReleaseLease: _release_lease,
    plan.RemoveRuntime: _remove_runtime,
    plan.ReleaseObject: _release_object,
    plan.ExpireObject: _expire_object,
}
