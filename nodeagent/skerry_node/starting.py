"""Steps towards a running program. Each can be repeated."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import AsyncIterator

from skerry_api.ports import host_ports, published
from skerry_api.sandbox import NetworkMode, Sandbox, SandboxStatus
from skerry_node import launching, lives, means, mounting, report, steps
from skerry_node.keeper import client, wire
from skerry_node.kernel import devices
from skerry_node.means import Case, Hands, Layers, shell_name
from skerry_node.model import Life, Limits, Observed, Running
from skerry_node.network import ports, rates
from skerry_node.rootfs import disks, scratch

_LOG = logging.getLogger("skerry.act")


async def ensure_runtime(hands: Hands, case: Case, _: steps.Step) -> None:
    ensure_directory(hands, case.observed)
    status = case.sandbox.status if case.sandbox is not None else None
    life = _remember(status) if status is not None else Life()
    means.write_life(hands, case, life)


def ensure_directory(hands: Hands, observed: Observed) -> None:
    """Have a runtime directory in which nothing of another boot is told."""
    try:
        os.mkdir(observed.uid, 0o700, dir_fd=hands.view.runtime_fd)
    except FileExistsError:
        if observed.is_stale:
            lives.forget_processes(hands.view.runtime_fd, observed.uid)


def _remember(status: SandboxStatus) -> Life:
    now_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
    return lives.from_status(status, now_iso=report.render_time(time.time_ns()), now_seconds=now_seconds)


async def acquire_lease(hands: Hands, case: Case, step: steps.Step) -> None:
    leases = hands.view.leases
    wants_bridge = case.sandbox is not None and case.sandbox.spec.network.mode is NetworkMode.BRIDGE
    if not wants_bridge or not hands.shells:
        leases.acquire(case.uid)
        if wants_bridge:
            await ensure_policy(hands, case, step)
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
    await ensure_policy(hands, case, step)


async def ensure_policy(hands: Hands, case: Case, _: steps.Step) -> None:
    assert case.sandbox is not None
    lease = hands.view.leases.find(case.uid)
    if lease is not None:
        hands.view.firewall.ensure(lease.slot, case.sandbox.spec.network.egress)


async def ensure_bandwidth(hands: Hands, case: Case, _: steps.Step) -> None:
    assert case.sandbox is not None
    lease = hands.view.leases.find(case.uid)
    if lease is not None:
        hands.view.shaper.ensure(lease.slot, rates.rates(case.sandbox.spec.network.bandwidth))


@contextlib.asynccontextmanager
async def _shaped(hands: Hands, shell: wire.Shell, sandbox: Sandbox) -> AsyncIterator[None]:
    """Where there is a limit: the link is made and shaped before the program is started in it. A start that fails leaves no such link."""
    wanted = rates.rates(sandbox.spec.network.bandwidth)
    if wanted == rates.UNLIMITED or shell.link is None:
        hands.view.shaper.forget(shell.slot)  # of the start before
        yield
        return
    await hands.keeper.prepare(shell)
    try:
        hands.view.shaper.ensure(shell.slot, wanted, is_new=True)
        yield
    except BaseException:
        with contextlib.suppress(client.KeeperLost):
            await hands.keeper.discard(shell.slot)
        raise


def _wanted_root(case: Case) -> Layers | None:
    """The root that a shell can have on for this sandbox; None when it needs one of its own."""
    if case.sandbox is None or case.image is None or case.sandbox.spec.security.read_only_root_filesystem:
        return None
    if case.sandbox.spec.resources.limits.disk_bytes is not None:
        return None  # its writable layer is on a disk of its own
    return launching.root_layers(case.image)


async def ensure_cgroup(hands: Hands, case: Case, step: steps.Step) -> None:
    assert isinstance(step, steps.EnsureCgroup)
    hands.view.groups.open(case.uid).ensure(step.limits, device=_find_device(hands, case, step.limits))


async def write_limits(hands: Hands, case: Case, step: steps.Step) -> None:
    assert isinstance(step, steps.WriteLimits)
    hands.view.groups.open(case.uid).write_limits(step.limits, device=_find_device(hands, case, step.limits))


def _find_device(hands: Hands, case: Case, limits: Limits) -> str | None:
    """The device that is limited, when any is: the one that holds the writable layer."""
    return devices.find_disk(os.stat(case.uid, dir_fd=hands.view.scratch_fd).st_dev) if limits.holds_io else None


async def write_disk(hands: Hands, case: Case, step: steps.Step) -> None:
    """Raises disks.DiskRefused where it cannot be had while it lives."""
    assert isinstance(step, steps.WriteDisk)
    path = os.path.join(hands.settings.scratch_dir, case.uid)
    if not os.path.ismount(path):
        raise disks.DiskRefused("it was started without a disk limit, and its files are on a disk that all share; create it anew")
    disks.write_limit(path, step.disk_bytes)


async def ensure_writable(hands: Hands, case: Case, step: steps.Step) -> None:
    assert isinstance(step, steps.EnsureWritable)
    if case.uid in hands.dressed:
        return
    if step.disk_bytes is not None:
        await asyncio.to_thread(disks.ensure, hands.settings.volumes_dir, hands.settings.scratch_dir, case.uid, limit_bytes=step.disk_bytes)
    else:
        disks.unlimit(hands.settings.volumes_dir, hands.settings.scratch_dir, case.uid)
    scratch.ensure_writable(hands.settings.scratch_dir, case.uid, owner=means.find_owner(hands, case.uid))


async def ensure_volumes(hands: Hands, case: Case, _: steps.Step) -> None:
    assert case.sandbox is not None
    where = mounting.make_places(hands.settings)
    await mounting.ensure(where, hands.source, case.sandbox, owner=means.find_owner(hands, case.uid))


async def refresh_volumes(hands: Hands, sandbox: Sandbox) -> None:
    """Bring changed objects of the cluster into the volumes of a living sandbox. Raises VolumeFailed, SourceUnavailable, OSError."""
    where = mounting.make_places(hands.settings)
    await mounting.refresh(where, hands.source, sandbox, owner=means.find_owner(hands, sandbox.metadata.uid))


async def publish_ports(hands: Hands, case: Case, _: steps.Step) -> None:
    """Raises client.Refused when a place is taken and nothing runs yet, OSError when what runs cannot have it back."""
    assert case.sandbox is not None
    lease = hands.view.leases.find(case.uid)
    if lease is None:
        raise FileNotFoundError(f"the lease of {case.uid} vanished")
    wanted = published(case.sandbox.spec.network.ports)
    try:
        hands.view.ports.publish(lease.slot, wanted)
    except ports.PortTaken as error:
        if isinstance(case.observed.process, Running):
            raise
        raise _refuse_port(hands, case.sandbox, error) from error
    if isinstance(case.observed.process, Running):
        hands.view.ports.open_link(lease.slot)


def _refuse_port(hands: Hands, sandbox: Sandbox, error: ports.PortTaken) -> client.Refused:
    """In the words of the manifest."""
    place = next(place for place, port in enumerate(sandbox.spec.network.ports) if error.port in host_ports((port,)))
    owner = "a program of this node" if error.slot is None else f"sandbox {hands.view.leases.owner(error.slot)}"
    problem = f"{error.port} is taken by {owner}; write another hostPort, or end that"
    return client.Refused(problem=problem, field=f"spec.network.ports[{place}].hostPort", reason="HostPortTaken")


async def start_process(hands: Hands, case: Case, _: steps.Step) -> None:
    """Raises client.Refused, client.KeeperLost, variables.VariableFailed, SourceUnavailable, OSError."""
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
    env = await hands.environments.renew(hands.source, case.sandbox, means.find_facts(hands, case.sandbox))
    order = launching.order(case.sandbox, case.image, hands, slot=lease.slot, attempt=life.attempt, dressed=is_dressed, variables=env)
    with (
        disks.opened(hands.settings.scratch_dir, case.uid) as disk_fds,
        mounting.opened(mounting.make_places(hands.settings), case.sandbox, owner=order.shell.id_base) as volume_fds,
    ):
        asked = time.monotonic()
        order = dataclasses.replace(order, has_disk=bool(disk_fds))
        async with _shaped(hands, order.shell, case.sandbox):
            started = await hands.keeper.launch(order, volume_fds=[*disk_fds, *volume_fds])
    hands.favourite = _wanted_root(case) or hands.favourite
    hands.handles.hold(case.uid)
    hands.view.ports.open_link(lease.slot)
    kind, seconds = "Warm" if started.warm else "Cold", time.monotonic() - case.began
    if hands.meters is not None:
        hands.meters.started(kind, prepare=asked - case.began, request=seconds - (asked - case.began), keeper=started.seconds)
    _LOG.info("launched uid=%s type=%s keeper_seconds=%.5f seconds=%.5f", case.uid, kind, started.seconds, seconds)
    means.write_life(
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


def remove_start(hands: Hands, uid: str) -> None:
    """Remove the writable layer of a start that came to nothing."""
    hands.dressed.discard(uid)
    disks.remove(hands.settings.volumes_dir, hands.settings.scratch_dir, uid)
    scratch.remove_writable(hands.settings.scratch_dir, uid)
