"""One writer: the Lease `skerry-operator` in the system namespace, as client-go's leader election holds it.

Whoever holds it renews it; a replica that sees it unchanged for its whole duration, by its own clock, takes it. The holder stops writing
well before that: two thirds of the duration after the last renewal that was answered, counted from before it was asked for.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Callable

from skerry_operator import errors
from skerry_operator.client import MERGE, Client, Json

NAME = "skerry-operator"
_LOG = logging.getLogger("skerry.lease")


class Leadership:
    """Whether this process may write. *monotonic* is a clock in seconds, *now* the wall clock."""

    def __init__(
        self, connection: Client, *, namespace: str, identity: str, lease_seconds: float,
        monotonic: Callable[[], float], now: Callable[[], datetime.datetime],
    ) -> None:  # fmt: skip
        self._client = connection
        self._namespace = namespace
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._identity = identity
        self._seconds = lease_seconds
        self._monotonic = monotonic
        self._now = now
        self._held_until = float("-inf")
        self._seen: tuple[str, float] = ("", 0.0)
        self._heard_at = monotonic()

    def is_held(self) -> bool:
        """Whether the last renewal still counts."""
        return self._monotonic() < self._held_until

    def silence_seconds(self) -> float:
        """Since the API server last answered about the Lease."""
        return self._monotonic() - self._heard_at

    async def acquire(self) -> None:
        """Wait until the Lease is ours. Survives an API server that is away."""
        told = ""
        while True:
            try:
                holder = await self._try()
            except errors.RequestFailed as error:
                holder = f"unknown: {error}"
            if holder is None:
                _LOG.info("leading identity=%s", self._identity)
                return
            if holder != told:
                _LOG.info("waiting for the lease holder=%s", holder)
                told = holder
            await asyncio.sleep(self._seconds / 8)

    async def keep(self) -> None:
        """Renew for ever. Raises errors.LeadershipLost when that fails for too long, or another has it."""
        while True:
            await asyncio.sleep(self._seconds / 6)
            try:
                holder = await self._try()
            except errors.RequestFailed as error:
                _LOG.warning("lease not renewed problem=%s", error)
                holder = None
            if holder is not None:
                self._held_until = float("-inf")
                raise errors.LeadershipLost(f"the Lease {self._namespace}/{NAME} is held by {holder}")
            if not self.is_held():
                raise errors.LeadershipLost(f"the Lease {self._namespace}/{NAME} could not be renewed in time")

    async def release(self) -> None:
        """Give it up, so that another need not wait. Never raises."""
        if not self.is_held():
            return
        self._held_until = float("-inf")
        try:
            lease = await self._client.request("GET", f"{self._path}/{NAME}")
            if lease["spec"].get("holderIdentity") == self._identity:
                await self._write(lease, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except errors.RequestFailed as error:
            _LOG.warning("lease not released problem=%s", error)

    async def _try(self) -> str | None:
        """Take or renew; None when it is ours, else who holds it."""
        asked = self._monotonic()
        try:
            lease = await self._client.request("GET", f"{self._path}/{NAME}")
        except errors.NotFound:
            lease = await self._create()
        self._heard_at = self._monotonic()
        spec = lease.get("spec") or {}
        holder, version = str(spec.get("holderIdentity") or ""), str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = (version, asked)
        is_stale = asked - self._seen[1] >= float(spec.get("leaseDurationSeconds") or self._seconds)
        if holder not in {"", self._identity} and not is_stale:
            return holder
        content: Json = {"holderIdentity": self._identity, "leaseDurationSeconds": max(1, round(self._seconds)), "renewTime": self._stamp()}
        if holder != self._identity:
            content |= {"acquireTime": content["renewTime"], "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        try:
            await self._write(lease, content)
        except errors.Conflict:
            return holder or "another"
        self._held_until = asked + self._seconds * 2 / 3
        return None

    async def _create(self) -> Json:
        await self._ensure_namespace()
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME, "namespace": self._namespace}, "spec": {}}
        try:
            return await self._client.request("POST", self._path, body=body)
        except errors.Conflict:
            return await self._client.request("GET", f"{self._path}/{NAME}")

    async def _ensure_namespace(self) -> None:
        """For a cluster without the chart; where we may not, the chart has made it."""
        try:
            await self._client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": self._namespace}})
        except (errors.Conflict, errors.Refused):
            return

    async def _write(self, lease: Json, spec: Json) -> None:
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        await self._client.request("PATCH", f"{self._path}/{NAME}", body=body, content_type=MERGE)

    def _stamp(self) -> str:
        return self._now().astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
