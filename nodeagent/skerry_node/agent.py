"""The agent put together: directories, bridge, rules, keeper, source, loop and doors; and its undoing, `purge`."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
from collections.abc import Iterable

from skerry_api.egress import OPEN
from skerry_node import (
    backend,
    building,
    dozing,
    errors,
    gauging,
    handles,
    housekeeping,
    imaging,
    kubeapi,
    loop,
    means,
    metrics,
    mounting,
    observe,
    serving_metrics,
)
from skerry_node.carrying import carrier, outbound
from skerry_node.cgroup import group, hierarchy
from skerry_node.image import collecting
from skerry_node.image.pulling import Puller
from skerry_node.image.registry import client as registry
from skerry_node.image.registry.hosts import Hosts
from skerry_node.image.store import Store
from skerry_node.keeper import bootstrap, client, holding
from skerry_node.keeper.settings import Settings as KeeperSettings
from skerry_node.kernel import features
from skerry_node.metering import series
from skerry_node.network import bridge, firewall, ipam, knocks, layouts, policy, portrules, ports, ruleset
from skerry_node.preparing import passes
from skerry_node.resolver import server as server_of_names
from skerry_node.rootfs import runtime, scratch
from skerry_node.serving import server
from skerry_node.sessions import consoles, table
from skerry_node.settings import Settings
from skerry_node.sources import Source
from skerry_node.volumes import places

_LOG = logging.getLogger("skerry.agent")


class Agent:
    """One node's agent. `run` goes on until cancelled and drains nothing."""

    def __init__(self, settings: Settings, source: Source) -> None:
        self.settings = settings
        self.source = source
        features.require()
        runtime.ensure_memory(settings.run_dir)
        for path in (settings.run_dir, settings.state_dir, settings.sandboxes_dir, settings.logs_dir, settings.volumes_dir):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self.store = Store(settings.images_dir, keep_blobs=settings.keep_blobs)
        scratch.ensure_scratch(settings.state_dir, settings.scratch_bytes)
        groups = ensure_groups(settings)
        gateway = settings.network[ipam.GATEWAY_SLOT]
        ruleset.ensure_rules(layouts.make_layout(settings))  # they match by name: they stand before the link is up
        index = bridge.ensure_bridge(settings.bridge, network=settings.network, gateway=gateway)
        leases = make_leases(settings)
        view = observe.View(
            runtime_fd=_open(settings.sandboxes_dir),
            scratch_fd=_open(settings.scratch_dir),
            volumes_fd=_open(settings.volumes_dir),
            logs_fd=_open(settings.logs_dir),
            groups=groups,
            leases=leases,
            firewall=make_firewall(settings, leases),
            ports=make_ports(settings, leases),
        )
        keeper = client.Client(
            keeper_settings(settings, groups, self.store), on_exit=self._on_exit, on_lost=self._on_keeper_lost, outside=make_outside(settings, groups)
        )
        leases.before_release = view.firewall.remove
        registries = registry.Client(Hosts(settings.registry_config))
        self.images = imaging.Imaging(
            self.store,
            Puller(self.store, registries),
            source,
            poke=self._poke,
            read_node_credentials=lambda: imaging.read_docker_config(settings.docker_config),
            is_named=settings.manifests_dir is not None,
            tries=settings.image_tries,
        )
        self.hands = means.Hands(
            settings=settings, view=view, keeper=keeper, source=source, bridge_index=index, images=self.images,
            handles=handles.Handles(view.runtime_fd),
        )  # fmt: skip
        self.meters = metrics.Meters(self._read_samples, self._read_gauges)
        self.sessions = table.Sessions(settings.keeper_socket)
        self.consoles = consoles.Consoles(settings.keeper_socket)
        self.loop = loop.Loop(hands=self.hands, source=source, store=self.store, meters=self.meters)
        self.dozing = dozing.Dozing(self.hands, self.loop)
        self.dozing.read_busy = self.sessions.busy_uids
        self.builds = building.Builds(
            hands=self.hands, store=self.store, guests=self.loop.guests, poke=self.loop.poke, poke_all=self.loop.poke_all,
            directory=settings.builds_dir,
        )  # fmt: skip
        way_out = outbound.Outbound(self.store, registries, read_node_credentials=self.images.read_node_credentials)
        self.carrier = carrier.Carrier(self.store, self.loop, way_out)
        self.gauges = gauging.Gauges(self.loop, self.store, watch_age=getattr(source, "watch_age_seconds", None))
        self.house = self._make_house()
        self._count()
        self.preparing = self._make_preparing()

    async def run(self) -> None:
        """Serve, reconcile, report until cancelled."""
        await asyncio.to_thread(scratch.sweep_trash, self.settings.scratch_dir)
        door = await server.start(
            backend.Backend(self),
            path=self.settings.agent_socket,
            metrics=self.meters.render,
            carrier=self.carrier,
            builder=self.builds,
        )
        await self.sessions.adopt()
        scrape = await serving_metrics.start(
            self.settings.metrics_address,
            self.meters.render,
            stale_seconds=self.loop.stale_seconds,
            is_ready=self.loop.is_ready,
            max_stale_seconds=self.settings.max_stale_seconds,
        )
        _LOG.info("agent ready node=%s socket=%s metrics=%s", self.settings.node_name, self.settings.agent_socket, scrape.url)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.loop.run())
                tasks.create_task(self.house.run())
                tasks.create_task(self.gauges.survey())
                tasks.create_task(self.dozing.run())
                tasks.create_task(self._make_resolver().run())
                self._open_stream_door(tasks)
                if self.preparing is not None:
                    tasks.create_task(self.preparing.run())
        finally:
            await scrape.close()
            await door.close()
            await self.images.close()
            await self.hands.keeper.close()
            await self.source.close()
            self.gauges.close()

    def _count(self) -> None:
        """Have everybody whose work is counted tell the meters."""
        self.hands.meters = self.meters
        self.hands.keeper.on_answer = self.meters.keeper_answered
        self.images.puller.on_end = self.meters.pulled
        self.house.on_collected = self.meters.collected
        if (api := getattr(self.source, "api", None)) is not None:
            api.on_answer = self.meters.api_answered

    def _make_resolver(self) -> server_of_names.Resolver:
        layout = layouts.make_layout(self.settings)
        return server_of_names.Resolver(
            layout.gateways, nameservers=self.settings.nameservers, ranges=layout.ranges, find_guest=self._find_guest,
            admit=self.hands.view.firewall.admit,
        )  # fmt: skip

    def _find_guest(self, address: policy.Address) -> server_of_names.Guest | None:
        """Who has *address*, once its own policy is in force there."""
        view = self.hands.view
        slot = view.leases.find_slot(address)
        uid = view.leases.owner(slot) if slot is not None else None
        if slot is None or uid is None:
            return None
        sandbox = self.loop.wanted.get(uid)
        if sandbox is None and uid not in self.loop.guests.uids:
            return None
        egress = sandbox.spec.network.egress if sandbox is not None else OPEN
        return server_of_names.Guest(slot, egress) if view.firewall.policy(slot) == policy.digest(egress) else None

    def _make_preparing(self) -> passes.Preparing | None:
        """SandboxImages come from the API server only."""
        if not isinstance(self.source, kubeapi.ClusterSource):
            return None
        made = passes.Preparing(
            self.source.image_objects,
            self.store,
            self.images,
            self.builds,
            self.source,
            node_name=self.settings.node_name,
            tell=self.loop.heartbeat.beat_soon,
        )
        self.loop.heartbeat.read_prepared = lambda: made.prepared
        self.house.read_pinned = self.carrier.read_pinned = made.in_use
        return made

    def _make_house(self) -> housekeeping.Housekeeping:
        settings = self.settings
        self.store.verified.load(settings.verified_path)
        limits = collecting.Limits(settings.image_high_percent, settings.image_low_percent, settings.image_minimum_age_seconds)
        house = housekeeping.Housekeeping(self.hands, self.store, limits, wanted=self.loop.known, poke=self.loop.poke_all)
        self.hands.checks = house.checks
        return house

    def _open_stream_door(self, tasks: asyncio.TaskGroup) -> None:
        """In a cluster: the gateway's way in."""
        api = getattr(self.source, "api", None)
        if api is None:
            return
        from skerry_node import streaming  # noqa: PLC0415 - certificates cost a standalone agent memory that it has no use for

        tasks.create_task(
            streaming.Door(self.settings, api, backend.Backend(self), announce=self.loop.heartbeat.announce, certified=self._certified).run()
        )

    def _read_samples(self) -> Iterable[series.Sample]:
        return self.gauges.read_samples()

    def _read_gauges(self) -> metrics.Readings:
        return self.gauges.read_gauges()

    def _certified(self, ends_at: float) -> None:
        self.gauges.certificate_ends["agent"] = ends_at

    def _poke(self, uid: str) -> None:
        self.loop.poke(uid)

    def _on_exit(self, uid: str) -> None:
        self.loop.on_exit(uid)

    def _on_keeper_lost(self) -> None:
        self.loop.on_keeper_lost()


def ensure_groups(settings: Settings) -> group.Parent:
    """The parent cgroups, made. Raises errors.Unsupported."""
    try:
        found = hierarchy.detect()
    except hierarchy.CgroupsMissing as error:
        raise errors.Unsupported(str(error)) from error
    hierarchy.ensure_parent(found, settings.cgroup_parent)
    return group.Parent(found, settings.cgroup_parent)


def make_leases(settings: Settings) -> ipam.Ipam:
    """The node's leases."""
    network: ipaddress.IPv4Network = settings.network
    return ipam.Ipam(settings.leases_dir, network=network, id_base=settings.id_base, link_prefix=layouts.port_prefix(settings))


def make_firewall(settings: Settings, leases: ipam.Ipam) -> firewall.Firewall:
    """The sandboxes' part of the rules, read from the kernel; what belongs to no lease goes."""

    def port_of(slot: int) -> firewall.Port:
        return firewall.Port(slot, leases.veth_name(slot), leases.mac(slot), (leases.address(slot),))

    made = firewall.Firewall(settings.bridge, port_of=port_of, slot_of=leases.find_slot)
    for slot in made.slots() - {lease.slot for lease in leases.list()}:
        made.remove(slot)
    return made


def make_ports(settings: Settings, leases: ipam.Ipam) -> ports.Ports:
    """What the node publishes, as the last agent left it, with the rules for it in place. Raises ruleset.RulesFailed, OSError."""

    def ensure() -> None:
        portrules.ensure_rules(settings.bridge, settings.network, link_prefix=leases.link_prefix)

    made = ports.Ports(portrules.table_name(settings.bridge), lambda slot: (leases.address(slot),), link_name=leases.veth_name, ensure_rules=ensure)
    made.repair(must_ensure=True)
    return made


def keeper_settings(settings: Settings, groups: group.Parent, store: Store) -> KeeperSettings:
    """What this node's keeper is started with."""
    return KeeperSettings(
        socket_path=settings.keeper_socket,
        runtime_dir=settings.sandboxes_dir,
        logs_dir=settings.logs_dir,
        layers_dir=store.layers_dir,
        scratch_dir=settings.scratch_dir,
        build_dir=os.path.join(settings.run_dir, "keeper-root"),
        cgroup_dirs=groups.directories,
        log_segment_bytes=settings.log_segment_bytes,
        log_segments=settings.log_segments,
    )


def make_outside(settings: Settings, groups: group.Parent) -> bootstrap.Outside | None:
    """Where a keeper outside the agent's container lives; None: it stays with the agent."""
    if not settings.keeper_outside:
        return None
    return bootstrap.Outside(os.path.join(settings.state_dir, "runtime"), hierarchy.outside_groups(groups.hierarchies, settings.cgroup_parent))


async def purge(settings: Settings, *, images: bool) -> None:
    """Remove everything of this node from the machine: sandboxes, keeper, mounts, cgroups, links, rules; images too when asked."""
    groups = ensure_groups(settings)
    for uid in groups.list():
        groups.open(uid).kill()
    keeper = client.Client(
        KeeperSettings(settings.keeper_socket, "", "", "", "", "", (), 0, 0),
        on_exit=lambda _: None,
        on_lost=lambda: None,
    )
    if await keeper.connect_only():
        with contextlib.suppress(client.KeeperLost):
            await keeper.stop()
    await keeper.close()
    holding.stop_attic(os.path.join(settings.run_dir, holding.NAME))
    await _wait_for_cgroups(groups)
    for _ in range(250):  # keeper and attic need a moment to leave theirs
        if hierarchy.remove_parent(groups.hierarchies, settings.cgroup_parent):
            break
        await asyncio.sleep(0.02)
    with contextlib.suppress(FileNotFoundError):
        for uid in os.listdir(settings.volumes_dir):
            places.remove(mounting.make_places(settings), uid)
    scratch.remove_scratch(settings.state_dir)
    await asyncio.to_thread(bridge.remove_bridge, settings.bridge)
    with contextlib.suppress(knocks.KnocksUnavailable):
        knocks.remove(settings.bridge)
    portrules.remove_rules(settings.bridge)
    if not settings.keeper_outside:  # there it is a volume of the pod
        runtime.remove_memory(settings.run_dir)
    ruleset.remove_rules(settings.bridge)
    shutil.rmtree(settings.run_dir, ignore_errors=True)
    shutil.rmtree(settings.logs_dir, ignore_errors=True)
    if images:
        _remove_state(settings)


def _remove_state(settings: Settings) -> None:
    """Remove the state directory but for a directory of manifests in it: those are people's, not ours."""
    spared = {"manifests"}
    if settings.manifests_dir is not None:
        spared.add(os.path.relpath(os.path.realpath(settings.manifests_dir), os.path.realpath(settings.state_dir)).partition("/")[0])
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(settings.state_dir):
            path = os.path.join(settings.state_dir, name)
            if name not in spared and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            elif name not in spared:
                os.unlink(path)
    with contextlib.suppress(OSError):  # manifests are there
        os.rmdir(settings.state_dir)


async def _wait_for_cgroups(groups: group.Parent) -> None:
    for _ in range(250):
        for uid in groups.list():
            groups.open(uid).kill()
            with contextlib.suppress(OSError):
                groups.open(uid).remove()
        if not groups.list():
            return
        await asyncio.sleep(0.02)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
