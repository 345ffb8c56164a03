"""Events for people, off the hot path: a bounded queue and one sender. An Event that cannot be sent is dropped; the conditions have it too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from skerry_api import names
from skerry_api.node import SandboxNode
from skerry_api.sandbox import Sandbox
from skerry_operator import errors
from skerry_operator.kubeapi import KubeApi

_LIMIT = 1000
_LOG = logging.getLogger("skerry.events")
_CLUSTER_NAMESPACE = "default"
"""Events about cluster-scoped objects lie there."""


class Recorder:
    """Takes Events at any time; `run` sends them. *now* gives RFC 3339."""

    def __init__(self, kubeapi: KubeApi, *, now: Callable[[], str]) -> None:
        self._kubeapi = kubeapi
        self._now = now
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(_LIMIT)

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
                await self._kubeapi.post_event(namespace, event)
            except errors.RequestFailed as error:
                _LOG.warning("event not sent reason=%s problem=%s", event["reason"], error)

    def _add(self, kind: str, name: str, uid: str, *, namespace: str, reason: str, message: str, is_warning: bool) -> None:
        moment, home = self._now(), namespace or _CLUSTER_NAMESPACE
        reference = {"apiVersion": names.API_VERSION, "kind": kind, "name": name, "uid": uid}
        if namespace:
            reference["namespace"] = namespace
        event = {
            "metadata": {"generateName": f"{name[:200]}.", "namespace": home},
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
