"""Events for people, off the hot path: a bounded queue and one sender. An Event that cannot be sent is dropped; the conditions have it too.

The same thing of the same object within ten minutes is one Event with a count, as client-go's correlator has it.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skerry_api import names
from skerry_api.node import SandboxNode
from skerry_api.sandbox import Sandbox
from skerry_operator import errors
from skerry_operator.kubeapi import KubeApi

_LIMIT = 1000
_SERIES_SECONDS = 600.0
_MAX_SERIES = 4096
_LOG = logging.getLogger("skerry.events")
_CLUSTER_NAMESPACE = "default"
"""Events about cluster-scoped objects lie there."""


@dataclass(frozen=True, slots=True)
class _Series:
    """An Event that exists: its name, how often it happened, when last."""

    name: str
    count: int
    last: datetime.datetime


class Recorder:
    """Takes Events at any time; `run` sends them. *now* gives RFC 3339."""

    def __init__(self, kubeapi: KubeApi, *, now: Callable[[], str]) -> None:
        self._kubeapi = kubeapi
        self._now = now
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(_LIMIT)
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()

    def about_sandbox(self, sandbox: Sandbox, *, reason: str, message: str) -> None:
        """A warning about a sandbox. Never blocks."""
        metadata = sandbox.metadata
        self._add(names.SANDBOX_KIND, metadata.name, metadata.uid, namespace=metadata.namespace, reason=reason, message=message, is_warning=True)

    def about_node(self, node: SandboxNode, *, reason: str, message: str, is_warning: bool) -> None:
        """An Event about a node. Never blocks."""
        self._add(names.NODE_KIND, node.name, node.uid, namespace="", reason=reason, message=message, is_warning=is_warning)

    async def run(self) -> None:
        """Send for ever."""
        while True:
            namespace, event = await self._queue.get()
            try:
                await self._send(namespace, event)
            except errors.RequestFailed as error:
                _LOG.warning("event not sent reason=%s problem=%s", event["reason"], error)

    async def _send(self, namespace: str, event: dict[str, Any]) -> None:
        """A new Event, or one more of one that is there. Raises errors.RequestFailed."""
        key, now = (str(event["involvedObject"]["uid"]), str(event["reason"])), datetime.datetime.fromisoformat(event["lastTimestamp"])
        known = self._series.pop(key, None)
        if known is not None and (now - known.last).total_seconds() < _SERIES_SECONDS:
            changes = {"count": known.count + 1, "lastTimestamp": event["lastTimestamp"], "message": event["message"]}
            try:
                await self._kubeapi.count_event(namespace, known.name, changes)
            except errors.NotFound:
                pass  # it has expired
            else:
                self._remember(key, _Series(known.name, known.count + 1, now))
                return
        await self._kubeapi.post_event(namespace, event)
        self._remember(key, _Series(str(event["metadata"]["name"]), 1, now))

    def _remember(self, key: tuple[str, str], series: _Series) -> None:
        self._series[key] = series
        if len(self._series) > _MAX_SERIES:
            self._series.popitem(last=False)

    def _add(self, kind: str, name: str, uid: str, *, namespace: str, reason: str, message: str, is_warning: bool) -> None:
        moment, home = self._now(), namespace or _CLUSTER_NAMESPACE
        reference = {"apiVersion": names.API_VERSION, "kind": kind, "name": name, "uid": uid}
        if namespace:
            reference["namespace"] = namespace
        event = {
            "metadata": {"name": f"{name[:200]}.{secrets.token_hex(8)}", "namespace": home},
            "involvedObject": reference,
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if is_warning else "Normal",
            "source": {"component": "skerry-operator"},
            "firstTimestamp": f"{moment[:19]}Z",
            "lastTimestamp": f"{moment[:19]}Z",
            "count": 1,
        }
        try:
            self._queue.put_nowait((home, event))
        except asyncio.QueueFull:
            _LOG.warning("event dropped reason=%s object=%s/%s", reason, namespace, name)
