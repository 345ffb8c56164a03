"""One writer: whoever holds the Lease `skerry-operator`. Losing it, or not being able to renew it in time, ends writing before another begins."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from typing import Any

from skerry_operator.errors import ApiUnavailable, Conflict, Gone
from skerry_operator.kubeapi import KubeApi
from skerry_operator.settings import Settings

NAME = "skerry-operator"
_LOG = logging.getLogger("skerry.operator")


class Leadership:
    """Whether this operator may write now. A frozen process that wakes up finds its time over."""

    def __init__(self, api: KubeApi, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._until = 0.0
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self.changed = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """Whether the lease is ours at this moment (monotonic clock; a third of it is left as margin)."""
        return time.monotonic() < self._until

    async def run(self) -> None:
        """Take and renew the lease for ever."""
        while True:
            was = self.is_held
            try:
                await self._try()
            except (ApiUnavailable, Conflict) as error:
                _LOG.debug("lease not renewed problem=%s", error)
            if self.is_held != was:
                _LOG.info("leadership held=%s identity=%s", self.is_held, self._settings.identity)
                self.changed.set()
            await asyncio.sleep(self._settings.lease_seconds / 5)

    async def _try(self) -> None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._settings.system_namespace}/leases"
        began = time.monotonic()
        try:
            lease = await self._api.request("GET", f"{path}/{NAME}")
        except Gone:
            await self._ensure_namespace()
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": self._spec(0)}
            await self._api.request("POST", path, body)
            self._hold(began)
            return
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") != self._settings.identity and not self._is_over(spec):
            self._until = 0.0
            return
        transitions = int(spec.get("leaseTransitions") or 0) + (spec.get("holderIdentity") != self._settings.identity)
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": self._spec(transitions)}
        await self._api.request("PATCH", f"{path}/{NAME}", body)
        self._hold(began)

    def _is_over(self, spec: dict[str, Any]) -> bool:
        """Whether the holder has not renewed for its whole time, by our own clock since we first saw that renewal."""
        seen = (str(spec.get("holderIdentity")), str(spec.get("renewTime")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        return not spec.get("holderIdentity") or time.monotonic() - self._seen_at > self._settings.lease_seconds

    def _hold(self, began: float) -> None:
        self._until = began + self._settings.lease_seconds * 2 / 3

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.lease_seconds)),
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    async def _ensure_namespace(self) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._settings.system_namespace}}
        try:
            await self._api.request("POST", "/api/v1/namespaces", body)
        except (Conflict, ApiUnavailable):
            return  # it is there, or is not ours to make
