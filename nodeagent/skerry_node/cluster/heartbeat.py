"""The node's Lease: its heartbeat, and the proof that no other agent goes by its name."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
import uuid
from collections.abc import Callable

from skerry_node import errors
from skerry_node.cluster import client
from skerry_node.cluster.client import Client, Json
from skerry_node.cluster.errors import Refused

DURATION_SECONDS = 40
"""api.md: 40 s without a renewal is Lost."""


def ensure_identity(state_dir: str, node_name: str) -> str:
    """Who this agent is: the same after a restart and after a reboot, another one for another state directory.

    Not the boot id: a machine that reboots within 40 s must have its name back at once, and two agents of one machine must differ.
    """
    path = os.path.join(state_dir, "identity")
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    if not os.path.exists(path):
        with tempfile.NamedTemporaryFile("w", dir=state_dir, prefix=".identity-", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
    with open(path, encoding="ascii") as file:
        return f"{node_name}/{file.read().strip()}"


class Heartbeat:
    """Renews the Lease *node_name* in *namespace* as *identity*."""

    def __init__(self, api: Client, node_name: str, *, namespace: str, identity: str, now: Callable[[], datetime.datetime]) -> None:
        self._client = api
        self._node_name = node_name
        self._namespace = namespace
        self._identity = identity
        self._now = now
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._version: str | None = None

    async def renew(self) -> None:
        """Renew, or take what nobody holds any more. Raises errors.NodeNameTaken, errors.SourceUnavailable."""
        if self._version is not None and await self._patch({"renewTime": _micro(self._now())}, version=self._version):
            return
        lease = await self._find()
        if lease is None:
            await self._create()
            return
        self._refuse_other(lease)
        now = _micro(self._now())
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now}
        if (lease.get("spec") or {}).get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
        if not await self._patch(spec, version=client.version(lease)):
            raise errors.SourceUnavailable(f"lease {self._namespace}/{self._node_name} changed meanwhile")

    async def _patch(self, spec: Json, *, version: str) -> bool:
        """False when somebody else wrote it, or it is gone."""
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        try:
            answer = await self._client.patch(f"{self._path}/{self._node_name}", body)
        except Refused as error:
            self._version = None
            if error.code in {404, 409}:
                return False
            raise
        self._version = client.version(answer)
        return True

    async def _find(self) -> Json | None:
        try:
            return await self._client.get(f"{self._path}/{self._node_name}")
        except Refused as error:
            if error.code == 404:
                return None
            raise

    def _refuse_other(self, lease: Json) -> None:
        spec = lease.get("spec") or {}
        holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
        if not holder or holder == self._identity or not renewed:
            return
        try:
            age = (self._now() - datetime.datetime.fromisoformat(renewed)).total_seconds()
        except (ValueError, TypeError):  # not a time: nobody renews it
            return
        if age < (spec.get("leaseDurationSeconds") or DURATION_SECONDS):
            raise errors.NodeNameTaken(
                f"node name {self._node_name} is held by the agent {holder}, alive {max(age, 0):.0f} s ago: "
                f"give this agent another --node-name, or end the other and wait {DURATION_SECONDS} s"
            )

    async def _create(self) -> None:
        now = _micro(self._now())
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._node_name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity, "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": now, "renewTime": now,
            },
        }  # fmt: skip
        try:
            answer = await self._client.post(self._path, body)
        except Refused as error:
            if error.code != 404:
                raise
            await self._ensure_namespace()
            answer = await self._client.post(self._path, body)
        self._version = client.version(answer)

    async def _ensure_namespace(self) -> None:
        """The chart makes it; without a chart the agent may have to. Raises errors.SourceUnavailable when it may not."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._namespace}}
        try:
            await self._client.post("/api/v1/namespaces", body)
        except Refused as error:
            if error.code == 403:
                raise errors.SourceUnavailable(f"namespace {self._namespace} does not exist and this agent may not create it: create it") from error
            if error.code != 409:
                raise


def _micro(moment: datetime.datetime) -> str:
    """metav1.MicroTime."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
