"""The API server as the source of wants: what `sources.Source` asks for, put together from the rooms in `cluster`."""

from __future__ import annotations

import base64
import datetime
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from skerry_api import names, volumes
from skerry_api.node import SandboxNode
from skerry_api.sandbox import Sandbox, SandboxStatus, render_status
from skerry_api.volumes import ObjectKind
from skerry_node import errors
from skerry_node.cluster import access, events, heartbeat, imageobjects, registration, watching
from skerry_node.cluster.client import Client, Json
from skerry_node.cluster.errors import Refused
from skerry_node.settings import Settings
from skerry_node.sources import Change

_OPERATORS_CONDITION = "Scheduled"
_MAX_TRIES = 5
_LOG = logging.getLogger("skerry.kubeapi")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def connect(settings: Settings) -> ClusterSource:
    """The source for *settings*, its node's name claimed.

    Raises errors.Unsupported without a way to an API server, errors.NodeNameTaken when a living agent has the name.
    An API server that does not answer is no reason to fail: the sandboxes here are looked after, and it comes back.
    """
    client = Client(await access.load(settings.kubeconfig))
    identity = heartbeat.ensure_identity(settings.state_dir, settings.node_name)
    source = ClusterSource(settings, client, identity=identity)
    try:
        await source.renew_lease()
    except errors.SourceUnavailable as error:
        _LOG.warning("node name not claimed yet node=%s problem=%s", settings.node_name, error)
    except BaseException:
        await source.close()
        raise
    return source


class ClusterSource:
    """The `sources.Source` over *client*. Every write may be repeated and touches only the uid that it was decided for."""

    expires_objects = False

    def __init__(
        self, settings: Settings, client: Client, *, identity: str, timing: watching.Timing | None = None,
        now: Callable[[], datetime.datetime] = _now,
    ) -> None:  # fmt: skip
        self._client = self.api = client
        self.image_objects = imageobjects.ImageObjects(client, settings.node_name)
        self._watch = watching.Watch(client, settings.node_name, timing=timing)
        self._events = events.Recorder(client, settings.node_name, now=now)
        self._node = registration.Registration(client)
        self._heartbeat = heartbeat.Heartbeat(client, settings.node_name, namespace=settings.system_namespace, identity=identity, now=now)

    async def watch(self) -> AsyncIterator[Change]:
        """First a Snapshot, then changes until `close`; a new Snapshot after each relist."""
        changes = self._watch.changes()
        async with aclosing(changes):
            async for change in changes:
                yield change

    def watch_age_seconds(self) -> float:
        """Since the API server last spoke on the watch; a healthy one speaks each minute."""
        return self._watch.age_seconds

    async def write_status(self, sandbox: Sandbox, *, status: SandboxStatus) -> None:
        """Put the whole *status* on the object; vanished or made anew is success. Raises errors.SourceUnavailable.

        A JSON patch that tests the uid: a merge patch with metadata.uid is answered 200 for any uid on the status of a
        custom resource (seen on 1.37), because its strategy takes the old metadata before it is compared.
        """
        content = _filled(render_status(status))
        scheduled = self._scheduled(sandbox)
        if scheduled is not None:
            content["conditions"] = [scheduled if each["type"] == _OPERATORS_CONDITION else each for each in content["conditions"]]
        patch = [_test_uid(sandbox), {"op": "add", "path": "/status", "value": content}]
        try:
            await self._client.patch(f"{_path(sandbox)}/status", patch)
        except Refused as error:
            if await self._is_current(sandbox, error):
                raise

    async def remove_finalizer(self, sandbox: Sandbox) -> None:
        """Let a deleted object go; vanished, made anew or let go already is success. Raises errors.SourceUnavailable."""
        finalizers = list((self._watch.find(sandbox.metadata.uid) or sandbox).metadata.finalizers)
        for _ in range(_MAX_TRIES):
            if names.FINALIZER not in finalizers:
                return
            patch = [
                _test_uid(sandbox),
                {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
                {"op": "replace", "path": "/metadata/finalizers", "value": [n for n in finalizers if n != names.FINALIZER]},
            ]
            try:
                await self._client.patch(_path(sandbox), patch)
            except Refused as error:
                if error.code not in {404, 409, 422}:
                    raise
            else:
                return
            found = await self._find(sandbox)
            finalizers = list((found or {"metadata": {}})["metadata"].get("finalizers") or ())
        raise errors.SourceUnavailable(f"finalizers of {_path(sandbox)} change under our hands")

    async def delete(self, sandbox: Sandbox) -> None:
        """Ask for the object's deletion; vanished or made anew is success. Raises errors.SourceUnavailable."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": sandbox.metadata.uid}}
        try:
            await self._client.delete(_path(sandbox), body)
        except Refused as error:
            if error.code not in {404, 409}:
                raise

    async def read_entries(self, kind: ObjectKind, *, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The entries of a ConfigMap or Secret; None when there is no such object. Raises errors.SourceUnavailable, also when it may not be read."""
        plural = "configmaps" if kind is ObjectKind.CONFIG_MAP else "secrets"
        try:
            return volumes.parse_entries(kind, await self._client.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}"))
        except Refused as error:
            if error.code == 404:
                return None
            raise

    def post_event(self, sandbox: Sandbox, *, reason: str, message: str, warning: bool = False) -> None:
        """Queue an Event; never blocks, never raises, may be dropped under pressure."""
        self._events.add(sandbox, reason=reason, message=message, is_warning=warning)

    async def read_pull_secret(self, namespace: str, name: str) -> bytes | None:
        """The Docker config in a Secret, read now and kept nowhere. Raises errors.SourceUnavailable, which tells of a missing permission too."""
        try:
            found = await self._client.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except Refused as error:
            if error.code == 404:
                return None
            raise
        data = found.get("data")
        value = data.get(".dockerconfigjson") if isinstance(data, Mapping) and found.get("type") == "kubernetes.io/dockerconfigjson" else None
        return base64.b64decode(value) if isinstance(value, str) else None

    async def write_node(self, node: SandboxNode) -> None:
        """Create or update this node's SandboxNode, when something in it changed. Raises errors.SourceUnavailable."""
        await self._node.write(node)

    async def renew_lease(self) -> None:
        """Renew the node's heartbeat. Raises errors.SourceUnavailable, errors.NodeNameTaken."""
        await self._heartbeat.renew()

    async def close(self) -> None:
        """End the watch and close the connections."""
        await self._events.close()
        await self._client.close()

    def _scheduled(self, sandbox: Sandbox) -> Json | None:
        """The operator's condition as it stands: it is not ours to write (law 2)."""
        known = (self._watch.find(sandbox.metadata.uid) or sandbox).status
        rendered = render_status(known)["conditions"]
        return next((each for each in rendered if each["type"] == _OPERATORS_CONDITION), None)

    async def _is_current(self, sandbox: Sandbox, error: Refused) -> bool:
        """Whether the object that *error* was said of still is the one we meant."""
        if error.code == 404:
            return False
        return error.code not in {409, 422} or await self._find(sandbox) is not None

    async def _find(self, sandbox: Sandbox) -> Json | None:
        """The object, if it is still the one with this uid."""
        try:
            found = await self._client.get(_path(sandbox))
        except Refused as error:
            if error.code == 404:
                return None
            raise
        return found if found["metadata"].get("uid") == sandbox.metadata.uid else None


def _path(sandbox: Sandbox) -> str:
    metadata = sandbox.metadata
    return f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{metadata.namespace}/{names.SANDBOX_PLURAL}/{metadata.name}"


def _test_uid(sandbox: Sandbox) -> dict[str, Any]:
    return {"op": "test", "path": "/metadata/uid", "value": sandbox.metadata.uid}


def _filled(value: Any) -> Any:
    """*value* without nulls: they take a key away in a merge patch, but are values in a JSON patch."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each is not None}
    return value
