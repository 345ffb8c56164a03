"""The agent put together: directories, bridge, rules, keeper, source, loop and doors; and its undoing, `purge`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from skerry_api.egress import OPEN
from skerry_node import (
    backend,
    building,
    dozing,
    gauging,
    ground,
    handles,
    housekeeping,
    imaging,
    kubeapi,
    loop,
    means,
    metrics,
    serving_metrics,
)
from skerry_node.carrying import carrier, outbound
from skerry_node.image import collecting
from skerry_node.image.pulling import Puller
from skerry_node.image.registry import client as registry
from skerry_node.image.registry.hosts import Hosts
from skerry_node.image.store import Store
from skerry_node.keeper import client
from skerry_node.metering import series
from skerry_node.network import layouts, policy
from skerry_node.preparing import passes
from skerry_node.resolver import server as server_of_names
from skerry_node.rootfs import scratch
from skerry_node.serving import server
from skerry_node.sessions import consoles, table
from skerry_node.settings import Settings
from skerry_node.sources import Source

_LOG = logging.getLogger("skerry.agent")


class Agent:
    """One node's agent. `run` goes on until cancelled and drains nothing."""

    def __init__(self, settings: Settings, source: Source) -> None:
        self.settings = settings
        self.source = source
        ground.ensure_directories(settings)
        self.store = Store(settings.images_dir, keep_blobs=settings.keep_blobs)
        view, index = ground.ensure(settings)
        keeper = client.Client(
            ground.keeper_settings(settings, view.groups, self.store),
            on_exit=self._on_exit,
            on_lost=self._on_keeper_lost,
            outside=ground.make_outside(settings, view.groups),
        )

        def close_slot(slot: int) -> None:
            view.shaper.forget(slot)
            view.firewall.remove(slot)

        view.leases.before_release = close_slot
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
