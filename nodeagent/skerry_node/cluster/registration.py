"""The node's SandboxNode: made once, written when something in it changed. `spec` is people's."""

from __future__ import annotations

import dataclasses

from skerry_api import conditions, names
from skerry_api.node import SandboxNode, parse_node, render_node, render_status
from skerry_node import errors
from skerry_node.cluster.client import Client, Json
from skerry_node.cluster.errors import Refused

PATH = f"/apis/{names.GROUP}/{names.VERSION}/{names.NODE_PLURAL}"


class Registration:
    """What the API server has of this node, as far as this agent knows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stored: SandboxNode | None = None

    async def write(self, node: SandboxNode) -> None:
        """Bring labels and status of the object to *node*'s, with as few writes as it takes. Raises errors.SourceUnavailable."""
        try:
            await self._write(node)
        except Refused as error:
            self._stored = None
            if error.code != 404:
                raise
            await self._write(node)  # somebody deleted it: it comes back
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._stored = None
            raise errors.SourceUnavailable(f"sandboxnode {node.name} cannot be read: {error}") from error

    async def _write(self, node: SandboxNode) -> None:
        stored = self._stored or parse_node(await self._ensure(node))
        if not set(node.labels) <= set(stored.labels):
            labels = {"metadata": {"labels": dict(node.labels)}}
            stored = parse_node(await self._client.patch(f"{PATH}/{node.name}", labels))
        merged = conditions.merge_conditions(stored.status.conditions, node.status.conditions)
        prepared = stored.status.prepared if node.status.prepared is None else node.status.prepared
        status = dataclasses.replace(node.status, conditions=merged, prepared=prepared)
        if render_status(status) != render_status(stored.status):
            body = {"status": render_status(status)}
            await self._client.patch(f"{PATH}/{node.name}/status", body)
        self._stored = dataclasses.replace(stored, status=status)

    async def _ensure(self, node: SandboxNode) -> Json:
        try:
            return await self._client.get(f"{PATH}/{node.name}")
        except Refused as error:
            if error.code != 404:
                raise
        body = {key: value for key, value in render_node(node).items() if key != "status"}
        return await self._client.post(PATH, body)
