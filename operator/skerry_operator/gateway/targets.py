"""Where a sandbox is: its uid and node from the object, the agent's door from the SandboxNode."""

from __future__ import annotations

from dataclasses import dataclass

from skerry_api import names
from skerry_operator import errors
from skerry_operator.client import Client
from skerry_operator.gateway.errors import Unserved

_GROUP_PATH = f"/apis/{names.GROUP}/{names.VERSION}"
_MAX_DOORS = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox on its node."""

    namespace: str
    name: str
    uid: str
    node: str


class Targets:
    """Finds places and doors. A door is remembered until it is forgotten: the agent's certificate proves that it is the node's."""

    def __init__(self, connection: Client) -> None:
        self._client = connection
        self._doors: dict[str, str] = {}

    async def find(self, namespace: str, name: str) -> Place:
        """Raises Unserved: no such sandbox, or not on a node yet; errors.RequestFailed."""
        try:
            raw = await self._client.request("GET", f"{_GROUP_PATH}/namespaces/{namespace}/{names.SANDBOX_PLURAL}/{name}")
        except errors.NotFound as error:
            raise Unserved(f'sandboxes "{name}" not found in namespace {namespace}', status=404, reason="NotFound") from error
        node = (raw.get("spec") or {}).get("nodeName") or ""
        if not node:
            raise Unserved(f"sandbox {name} is on no node yet: wait until it is scheduled", status=409, reason="Conflict")
        return Place(namespace=namespace, name=name, uid=raw["metadata"]["uid"], node=node)

    async def find_door(self, node: str) -> str:
        """`host:port` of the node's agent. Raises Unserved, errors.RequestFailed."""
        if node not in self._doors:
            try:
                raw = await self._client.request("GET", f"{_GROUP_PATH}/{names.NODE_PLURAL}/{node}")
            except errors.NotFound as error:
                raise Unserved(f"node {node} is not registered", status=503, reason="ServiceUnavailable") from error
            status = raw.get("status") or {}
            address, port = status.get("address"), status.get("port")
            if not address or not port:
                raise Unserved(f"the agent of node {node} has not opened its door yet: try again", status=503, reason="ServiceUnavailable")
            if len(self._doors) >= _MAX_DOORS:
                self._doors.clear()
            self._doors[node] = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        return self._doors[node]

    def forget_door(self, node: str) -> None:
        """Nobody answers there: ask the API server next time."""
        self._doors.pop(node, None)
