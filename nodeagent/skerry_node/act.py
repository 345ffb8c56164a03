"""Perform steps. Every function here can be repeated, and undoes nothing: what a crash leaves is seen by the next look."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from skerry_api.sandbox import NetworkMode, Sandbox, TerminationReason
from skerry_node import handles, imaging, launching, lives, mounting, observe, plan, report
from skerry_node.cgroup import stats
from skerry_node.image import integrity
from skerry_node.image.store import Image
from skerry_node.keeper import client, records
from skerry_node.model import Life, Observed, Stopping
from skerry_node.rootfs import scratch
from skerry_node.settings import Settings
from skerry_node.sources import Source
from skerry_node.volumes import places

Layers = tuple[str, ...]
"""Names of layers, lowest first."""
_LOG = logging.getLogger("skerry.act")
_ENTRIES_AT_ONCE = 200
"""Files of a writable layer that are deleted without leaving the loop: about 10 ms."""


@dataclass(slots=True)
class Hands:
    """What steps work with.

    `shells` are those that wait, by slot, with the layers of the root they have on; `spent` are slots whose root was not wanted, so that its
    writable layer is to be removed; `dressed` are uids that took a shell with its root; `favourite` are the layers of the last start.
    """

    settings: Settings
    view: observe.View
    keeper: client.Client
    source: Source
    bridge_index: int
    images: imaging.Imaging
    handles: handles.Handles
    shells: dict[int, Layers | None] = field(default_factory=dict)
    spent: list[int] = field(default_factory=list)
    dressed: set[str] = field(default_factory=set)
    favourite: Layers | None = None
    checks: integrity.Checks | None = None


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
    if not wants_bridge or not hands.shells:
        leases.acquire(case.uid)
        return
    wanted = _wanted_root(case)
    slot = next((slot for slot, layers in hands.shells.items() if layers == wanted), None) or next(iter(hands.shells))
    layers = hands.shells.pop(slot)
    leases.hand_over(slot, shell_name(slot), case.uid)
    if layers is not None and layers == wanted:
        scratch.hand_over_writable(hands.view.scratch_fd, shell_name(slot), case.uid)
        hands.dressed.add(case.uid)
    elif layers is not None:
        hands.spent.append(slot)


def shell_name(slot: int) -> str:
    """What a shell is called as the owner of its lease and of its writable layer."""
    return f"shell-{slot}"


def _wanted_root(case: Case) -> Layers | None:
    """The root that a shell can have on for this sandbox; None when it needs one of its own."""
    if case.sandbox is None or case.image is None or case.sandbox.spec.security.read_only_root_filesystem:
        return None
    return launching.root_layers(case.image)


async def _ensure_cgroup(hands: Hands, case: Case, step: plan.Step) -> None:
    assert isinstance(step, plan.EnsureCgroup)
    hands.view.groups.open(case.uid).ensure(step.limits)


async def _write_limits(hands: Hands, case: Case, step: plan.Step) -> None:
    assert isinstance(step, plan.WriteLimits)
    hands.view.groups.open(case.uid).write_limits(step.limits)


async def _ensure_writable(hands: Hands, case: Case, _: plan.Step) -> None:
    if case.uid in hands.dressed:
        return
    scratch.ensure_writable(hands.settings.scratch_dir, case.uid, owner=_owner(hands, case.uid))


async def _ensure_volumes(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    where = mounting.make_places(hands.settings)
    await mounting.ensure(where, hands.source, case.sandbox, owner=_owner(hands, case.uid))


def _owner(hands: Hands, uid: str) -> int:
    """The host's id of the sandbox's root."""
    lease = hands.view.leases.find(uid)
    if lease is None:
        raise FileNotFoundError(f"the lease of {uid} vanished")
    return hands.view.leases.id_range(lease.slot)[0]


async def refresh_volumes(hands: Hands, sandbox: Sandbox) -> None:
    """Bring changed objects of the cluster into the volumes of a living sandbox. Raises VolumeFailed, SourceUnavailable, OSError."""
    where = mounting.make_places(hands.settings)
    await mounting.refresh(where, hands.source, sandbox, owner=_owner(hands, sandbox.metadata.uid))


async def _start_process(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    assert case.image is not None
    lease = hands.view.leases.find(case.uid)
    if lease is None:
        raise FileNotFoundError(f"the lease of {case.uid} vanished")
    if hands.checks is not None:
        await hands.checks.ensure(case.image)
    life = lives.read(hands.view.runtime_fd, case.uid) or Life()
    is_dressed = case.uid in hands.dressed
    hands.dressed.discard(case.uid)
    order = launching.order(case.sandbox, case.image, hands, slot=lease.slot, attempt=life.attempt, dressed=is_dressed)
    with mounting.opened(mounting.make_places(hands.settings), case.sandbox, owner=order.shell.id_base) as volume_fds:
        started = await hands.keeper.launch(order, volume_fds=volume_fds)
    hands.favourite = _wanted_root(case) or hands.favourite
    hands.handles.hold(case.uid)
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


async def _freeze(hands: Hands, case: Case, _: plan.Step) -> None:
    try:
        hands.view.groups.open(case.uid).freeze()
    except KeyError as error:
        raise OSError(errno.ENOTSUP, "this node cannot pause: it has no freezer; mount the version 1 hierarchy, or cgroup2") from error


async def _thaw(hands: Hands, case: Case, _: plan.Step) -> None:
    hands.view.groups.open(case.uid).thaw()


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
    status = hands.handles.read_end(case.uid, record)
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
    hands.handles.release(case.uid)


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


async def _remove_volumes(hands: Hands, case: Case, _: plan.Step) -> None:
    await asyncio.to_thread(places.remove, mounting.make_places(hands.settings), case.uid)


async def _remove_logs(hands: Hands, case: Case, _: plan.Step) -> None:
    await asyncio.to_thread(shutil.rmtree, os.path.join(hands.settings.logs_dir, case.uid), ignore_errors=True)


async def _release_lease(hands: Hands, case: Case, _: plan.Step) -> None:
    lease = hands.view.leases.find(case.uid)
    if lease is not None:
        hands.view.leases.release(lease.slot)


async def _remove_runtime(hands: Hands, case: Case, _: plan.Step) -> None:
    hands.handles.release(case.uid)
    shutil.rmtree(os.path.join(hands.settings.sandboxes_dir, case.uid), ignore_errors=True)


async def _release_object(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    await hands.source.remove_finalizer(case.sandbox)


async def _expire_object(hands: Hands, case: Case, _: plan.Step) -> None:
    assert case.sandbox is not None
    await hands.source.delete(case.sandbox)


async def forget_layer(hands: Hands, layer: str) -> None:
    """Have *layer* unmounted, and whatever shell has it on removed. Raises client.KeeperLost."""
    for slot in await hands.keeper.forget_layer(layer):
        hands.shells.pop(slot, None)
        hands.view.leases.release(slot)
        hands.spent.append(slot)
    if hands.favourite is not None and layer in hands.favourite:
        hands.favourite = None


def remove_start(hands: Hands, uid: str) -> None:
    """Remove the writable layer of a start that came to nothing."""
    hands.dressed.discard(uid)
    scratch.remove_writable(hands.settings.scratch_dir, uid)


def _write_life(hands: Hands, case: Case, life: Life) -> None:
    lives.write(hands.view.runtime_fd, case.uid, life, name=case.name)


_Action = Callable[[Hands, Case, plan.Step], Awaitable[None]]
_ACTIONS: dict[type[plan.Step], _Action] = {
    plan.EnsureRuntime: _ensure_runtime,
    plan.AcquireLease: _acquire_lease,
    plan.EnsureCgroup: _ensure_cgroup,
    plan.WriteLimits: _write_limits,
    plan.EnsureWritable: _ensure_writable,
    plan.EnsureVolumes: _ensure_volumes,
    plan.StartProcess: _start_process,
    plan.BeginStop: _begin_stop,
    plan.Freeze: _freeze,
    plan.Thaw: _thaw,
    plan.KillProcess: _kill_process,
    plan.ResolveEnd: _resolve_end,
    plan.RecordEnd: _record_end,
    plan.MarkAtRest: _mark_at_rest,
    plan.RemoveCgroup: _remove_cgroup,
    plan.RemoveWritable: _remove_writable,
    plan.RemoveVolumes: _remove_volumes,
    plan.RemoveLogs: _remove_logs,
    plan.ReleaseLease: _release_lease,
    plan.RemoveRuntime: _remove_runtime,
    plan.ReleaseObject: _release_object,
    plan.ExpireObject: _expire_object,
}
