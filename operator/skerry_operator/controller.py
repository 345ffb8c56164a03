"""The operator's one decision loop: events fill the inventory; what waits is bound; what is lost or over is dealt with. Effects go by KubeApi."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import Mapping
from typing import Any

from skerry_api import names
from skerry_api.errors import InvalidManifest
from skerry_api.node import parse_node
from skerry_api.sandbox import Sandbox, parse_sandbox
from skerry_operator import inventory, lifecycle, metrics, scheduling
from skerry_operator.errors import ApiUnavailable, Conflict, Gone
from skerry_operator.kubeapi import KubeApi
from skerry_operator.lease import Leadership
from skerry_operator.settings import Settings

_LOG = logging.getLogger("skerry.operator")


class Controller:
    """Everything the operator knows and does. Events may come in any order and any number of times."""

    def __init__(self, settings: Settings, api: KubeApi, leadership: Leadership) -> None:
        self.inventory = inventory.Inventory()
        self._settings = settings
        self._api = api
        self._leadership = leadership
        self._binding: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def see_sandbox(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A sandbox appeared, changed or went."""
        uid = raw["metadata"]["uid"]
        if kind == "DELETED":
            had_node = self.inventory.node_of(uid) is not None
            self.inventory.drop_sandbox(uid)
            if had_node:
                self._wake.set()
            return
        try:
            sandbox = parse_sandbox(raw)
        except InvalidManifest as error:
            _LOG.warning("invalid sandbox uid=%s problem=%s", uid, error)
            return
        old = self.inventory.sandboxes.get(uid)
        if old is not None and _version(old) > _version(sandbox):
            return
        freed = old is not None and not inventory.is_finished(old) and inventory.is_finished(sandbox)
        self.inventory.put_sandbox(sandbox)
        if freed:
            self._wake.set()
        if self.inventory.node_of(uid) is None and sandbox.metadata.deletion_timestamp is None:
            self._try_bind(sandbox)

    def see_node(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A node appeared, changed or went."""
        node = parse_node(raw)
        if kind == "DELETED":
            self.inventory.nodes.pop(node.name, None)
        else:
            self.inventory.nodes[node.name] = node
        self._wake.set()

    def see_lease(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A heartbeat. The Lease of a node has its name."""
        name, spec = raw["metadata"]["name"], raw.get("spec") or {}
        if raw["metadata"].get("namespace") != self._settings.system_namespace or kind == "DELETED":
            return
        was = self.inventory.is_alive(name, now=time.monotonic(), lost_seconds=self._settings.node_lost_seconds)
        self.inventory.beat(name, str(spec.get("renewTime")), now=time.monotonic())
        if not was:
            self._wake.set()

    async def run(self) -> None:
        """Sweep for ever: those that wait, those on lost nodes, those whose time is over."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.sweep_seconds)
            self._wake.clear()
            if self._leadership.is_held:
                await self._sweep()

    async def _sweep(self) -> None:
        for sandbox in self.inventory.pending():
            self._try_bind(sandbox)
        now = time.monotonic()
        for name in self.inventory.bound_nodes():
            if name not in self.inventory.heartbeats and name in self.inventory.nodes:
                self.inventory.beat(name, "", now=now)  # a node that we have only just heard of gets its whole time
            elif name not in self.inventory.nodes and name not in self.inventory.heartbeats:
                self.inventory.beat(name, "", now=now)
            if not self.inventory.is_alive(name, now=now, lost_seconds=self._settings.node_lost_seconds):
                await self._deal_with_lost(name)
        moment = datetime.datetime.now(datetime.UTC)
        for sandbox in [each for each in self.inventory.sandboxes.values() if lifecycle.is_expired(each, now=moment)]:
            await self._guard(self._api.delete(sandbox), "delete", sandbox)
        metrics.PENDING.set(len(self.inventory.pending()))

    def _try_bind(self, sandbox: Sandbox) -> None:
        if not self._leadership.is_held:
            return
        began = time.monotonic()
        candidates = self.inventory.candidates(now=began, lost_seconds=self._settings.node_lost_seconds)
        decision = scheduling.decide(sandbox, candidates)
        match decision:
            case scheduling.Bound(node_name):
                self.inventory.assume(sandbox.metadata.uid, node_name)
                self._start(self._bind(sandbox, node_name))
            case scheduling.Unschedulable(message):
                status = lifecycle.unschedulable_status(sandbox, message=message, now=_now())
                if status is not None:
                    self._start(self._report_unschedulable(sandbox, message))
        metrics.DECISIONS.observe(time.monotonic() - began)

    async def _bind(self, sandbox: Sandbox, node_name: str) -> None:
        try:
            await self._api.bind(sandbox, node_name)
            metrics.BINDS.inc()
        except (Conflict, Gone, ApiUnavailable) as error:
            _LOG.warning("bind failed uid=%s node=%s problem=%s", sandbox.metadata.uid, node_name, error)
            self.inventory.forget_assumption(sandbox.metadata.uid)
            self._wake.set()

    async def _report_unschedulable(self, sandbox: Sandbox, message: str) -> None:
        status = lifecycle.unschedulable_status(sandbox, message=message, now=_now())
        if status is None:
            return
        await self._guard(self._api.write_status(sandbox, status), "report", sandbox)
        await self._guard(self._post_event(sandbox, "FailedScheduling", message), "event", sandbox)

    async def _deal_with_lost(self, node_name: str) -> None:
        for sandbox in list(self.inventory.on_node(node_name)):
            if lifecycle.must_release(sandbox):
                await self._guard(self._api.remove_finalizer(sandbox), "release", sandbox)
                continue
            status = lifecycle.lost_status(sandbox, now=_now())
            if status is not None:
                await self._guard(self._api.write_status(sandbox, status), "mark lost", sandbox)
                await self._guard(self._post_event(sandbox, "NodeLost", f"node {node_name} has sent no heartbeat"), "event", sandbox)

    async def _post_event(self, sandbox: Sandbox, reason: str, message: str) -> None:
        meta, now = sandbox.metadata, _now()
        involved = {
            "apiVersion": names.API_VERSION, "kind": names.SANDBOX_KIND, "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
        }  # fmt: skip
        body = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{meta.name[:50]}.", "namespace": meta.namespace},
            "involvedObject": involved, "reason": reason, "message": message[:1024], "type": "Warning", "count": 1,
            "firstTimestamp": now, "lastTimestamp": now, "source": {"component": "skerry-operator"},
        }  # fmt: skip
        await self._api.request("POST", f"/api/v1/namespaces/{meta.namespace}/events", body)

    async def _guard(self, effect: Any, what: str, sandbox: Sandbox) -> None:
        try:
            await effect
        except Gone:
            return
        except (Conflict, ApiUnavailable) as error:
            _LOG.warning("%s failed uid=%s problem=%s", what, sandbox.metadata.uid, error)

    def _start(self, effect: Any) -> None:
        task = asyncio.get_running_loop().create_task(effect)
        self._binding.add(task)
        task.add_done_callback(self._binding.discard)


def _version(sandbox: Sandbox) -> int:
    version = sandbox.metadata.resource_version
    return int(version) if version.isdigit() else 0


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
