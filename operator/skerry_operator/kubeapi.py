"""The operator's verbs on the API server. Every write is guarded twice: by the Lease, and by what it was decided on (uid, resourceVersion)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skerry_api import names
from skerry_api.conditions import Condition, render_condition
from skerry_api.image import SandboxImage
from skerry_api.node import SandboxNode
from skerry_api.sandbox import Sandbox, SandboxStatus, parse_sandbox, render_status
from skerry_operator import client, errors
from skerry_operator.client import Client, Json
from skerry_operator.lease import Leadership

_GROUP_PATH = f"/apis/{names.GROUP}/{names.VERSION}"
_NODES_PATH = f"{_GROUP_PATH}/{names.NODE_PLURAL}"


class KubeApi:
    """Reads, and guarded writes. Everything raises errors.RequestFailed; writes raise errors.LeadershipLost when they may not be made."""

    def __init__(self, connection: Client, leadership: Leadership, *, system_namespace: str) -> None:
        self._client = connection
        self._leadership = leadership
        self._leases_path = f"/apis/coordination.k8s.io/v1/namespaces/{system_namespace}/leases"

    async def list_sandboxes(self) -> list[Json]:
        """All of them, raw."""
        return await self._client.list_all(f"{_GROUP_PATH}/{names.SANDBOX_PLURAL}")

    async def list_sandbox_uids(self) -> frozenset[str]:
        """Only who is there."""
        items = await self._client.list_all(f"{_GROUP_PATH}/{names.SANDBOX_PLURAL}", is_metadata_only=True)
        return frozenset(str(each["metadata"]["uid"]) for each in items)

    async def list_images(self) -> list[Json]:
        """All SandboxImages, raw."""
        return await self._client.list_all(f"{_GROUP_PATH}/{names.IMAGE_PLURAL}")

    async def write_image_status(self, image: SandboxImage, status: Json) -> Json:
        """The operator's fields of an image's status, if the object is still as it was read; null takes one away."""
        path = f"{_GROUP_PATH}/namespaces/{image.namespace}/{names.IMAGE_PLURAL}/{image.name}/status"
        body = {"metadata": {"resourceVersion": image.resource_version}, "status": status}
        return await self._write("PATCH", path, body=body, content_type=client.MERGE)

    async def list_nodes(self) -> list[Json]:
        """All SandboxNodes, raw."""
        return await self._client.list_all(_NODES_PATH)

    async def read_renewals(self) -> dict[str, str]:
        """Name of a Lease -> its renewTime; from the watch cache."""
        answer = await self._client.request("GET", f"{self._leases_path}?resourceVersion=0")
        return {str(each["metadata"]["name"]): str((each.get("spec") or {}).get("renewTime") or "") for each in answer["items"]}

    async def bind(self, sandbox: Sandbox, node_name: str) -> Sandbox:
        """Node name and finalizer in one write."""
        return await self._patch_metadata(sandbox, {"finalizers": _with_finalizer(sandbox)}, spec={"nodeName": node_name})

    async def add_finalizer(self, sandbox: Sandbox) -> Sandbox:
        """Ours, so that the node can clean up."""
        return await self._patch_metadata(sandbox, {"finalizers": _with_finalizer(sandbox)})

    async def remove_finalizer(self, sandbox: Sandbox) -> None:
        """Ours, so that the object can go."""
        await self._patch_metadata(sandbox, {"finalizers": [each for each in sandbox.metadata.finalizers if each != names.FINALIZER]})

    async def write_status(self, sandbox: Sandbox, status: SandboxStatus) -> Sandbox:
        """The whole status, if the object is still as it was read: a JSON patch, since merge patches of a status compare no uid (seen on 1.37)."""
        patch = [
            *_tests(sandbox.metadata.uid, sandbox.metadata.resource_version),
            {"op": "add", "path": "/status", "value": _filled(render_status(status))},
        ]
        return parse_sandbox(await self._write("PATCH", f"{_path(sandbox)}/status", body=patch, content_type=client.JSON_PATCH))

    async def delete(self, sandbox: Sandbox) -> None:
        """Ask for the object's deletion, if it is still as it was read."""
        wanted = {"uid": sandbox.metadata.uid, "resourceVersion": sandbox.metadata.resource_version}
        await self._write("DELETE", _path(sandbox), body={"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": wanted})

    async def write_node_condition(self, node: SandboxNode, condition: Condition) -> None:
        """One condition of a node, in the place of the one of its type."""
        others = [each for each in node.status.conditions if each.type != condition.type]
        value = [render_condition(each) for each in (*others, condition)]
        patch = [*_tests(node.uid, node.resource_version), {"op": "add", "path": "/status/conditions", "value": value}]
        await self._write("PATCH", f"{_NODES_PATH}/{node.name}/status", body=patch, content_type=client.JSON_PATCH)

    async def post_event(self, namespace: str, event: Json) -> None:
        """An Event for people."""
        await self._write("POST", f"/api/v1/namespaces/{namespace}/events", body=event)

    async def count_event(self, namespace: str, name: str, changes: Json) -> None:
        """An Event that happened again."""
        await self._write("PATCH", f"/api/v1/namespaces/{namespace}/events/{name}", body=changes, content_type=client.MERGE)

    async def _patch_metadata(self, sandbox: Sandbox, metadata: Mapping[str, Any], **rest: Any) -> Sandbox:
        wanted = {"uid": sandbox.metadata.uid, "resourceVersion": sandbox.metadata.resource_version}
        body = {"metadata": {**wanted, **metadata}, **rest}
        return parse_sandbox(await self._write("PATCH", _path(sandbox), body=body, content_type=client.MERGE))

    async def _write(self, method: str, path: str, *, body: Any, content_type: str = "application/json") -> Json:
        if not self._leadership.is_held():
            raise errors.LeadershipLost("the operator's Lease is not held: nothing is written")
        return await self._client.request(method, path, body=body, content_type=content_type)


def _path(sandbox: Sandbox) -> str:
    return f"{_GROUP_PATH}/namespaces/{sandbox.metadata.namespace}/{names.SANDBOX_PLURAL}/{sandbox.metadata.name}"


def _with_finalizer(sandbox: Sandbox) -> list[str]:
    return [*(each for each in sandbox.metadata.finalizers if each != names.FINALIZER), names.FINALIZER]


def _tests(uid: str, version: str) -> list[dict[str, Any]]:
    return [{"op": "test", "path": "/metadata/uid", "value": uid}, {"op": "test", "path": "/metadata/resourceVersion", "value": version}]


def _filled(value: Any) -> Any:
    """*value* without nulls: in a JSON patch they would be values."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each is not None}
    return value
