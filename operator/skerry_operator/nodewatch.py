"""Reads the nodes' heartbeats and says on the SandboxNode which are lost. A restart believes that until the node is heard."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Callable

from skerry_api.conditions import Condition
from skerry_api.node import SandboxNode
from skerry_api.sandbox import TerminationReason
from skerry_operator import errors
from skerry_operator.events import Recorder
from skerry_operator.heartbeats import Heartbeats
from skerry_operator.inventory import Inventory
from skerry_operator.kubeapi import KubeApi
from skerry_operator.lifecycle import render_time
from skerry_operator.metrics import Metrics
from skerry_operator.settings import Settings

_LOST = TerminationReason.NODE_LOST.value
_LOG = logging.getLogger("skerry.nodewatch")


class NodeWatch:
    """Which nodes are lost. *on_change* hears of each node that was lost or came back."""

    def __init__(
        self, kubeapi: KubeApi, inventory: Inventory, recorder: Recorder, *, settings: Settings, metrics: Metrics,
        monotonic: Callable[[], float], now: Callable[[], datetime.datetime],
    ) -> None:  # fmt: skip
        self._kubeapi = kubeapi
        self._inventory = inventory
        self._recorder = recorder
        self._metrics = metrics
        self._poll_seconds = settings.heartbeat_poll_seconds
        self._heartbeats = Heartbeats(settings.node_lost_seconds)
        self._lost: frozenset[str] = frozenset()
        self._monotonic = monotonic
        self._now = now

    def is_lost(self, name: str) -> bool:
        """By its silence, or by what we said of it before a restart, until it is heard."""
        if self._heartbeats.is_lost(name):
            return True
        node = self._inventory.find_node(name)
        return node is not None and _is_marked(node) and not self._heartbeats.is_heard(name)

    def is_alive(self, name: str) -> bool:
        """The opposite, for scheduling."""
        return not self.is_lost(name)

    async def run(self, on_change: Callable[[frozenset[str]], None]) -> None:
        """Read for ever."""
        while True:
            try:
                await self._read(on_change)
            except errors.RequestFailed as error:
                _LOG.warning("heartbeats not read problem=%s", error)
            await asyncio.sleep(self._poll_seconds)

    async def _read(self, on_change: Callable[[frozenset[str]], None]) -> None:
        renewals = await self._kubeapi.read_renewals()
        now, names = self._monotonic(), self._inventory.node_names()
        for name in names:
            self._heartbeats.expect(name, now)
        self._heartbeats.observe({name: renewals[name] for name in names & renewals.keys()}, now)
        self._heartbeats.retain(names)
        lost = frozenset(filter(self.is_lost, names))
        changed, self._lost = lost ^ self._lost, lost
        self._metrics.lost_nodes.set(len(lost))
        for name in sorted(changed & names):
            _LOG.info("node %s node=%s", "lost" if name in lost else "back", name)
        if changed:
            on_change(changed)
        for name in names:
            await self._report(name)

    async def _report(self, name: str) -> None:
        """Bring the node's Ready condition to what was heard; an event of the node brings the answer."""
        node = self._inventory.find_node(name)
        if node is None:
            return
        if self._heartbeats.is_lost(name) and not _is_marked(node):
            status, reason, message = "Unknown", _LOST, "the agent sends no heartbeat"
        elif self._heartbeats.is_heard(name) and _is_marked(node):
            status, reason, message = "True", "HeartbeatReturned", "the agent sends heartbeats again"
        else:
            return
        written = Condition(type="Ready", status=status, reason=reason, message=message, last_transition_time=render_time(self._now()))
        try:
            await self._kubeapi.write_node_condition(node, written)
        except (errors.Conflict, errors.NotFound):
            return  # the next reading decides on the newer object
        self._recorder.about_node(node, reason=reason, message=message, is_warning=reason == _LOST)


def _is_marked(node: SandboxNode) -> bool:
    return any(each.type == "Ready" and each.reason == _LOST for each in node.status.conditions)
