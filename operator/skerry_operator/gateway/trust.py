"""The gateway's keys in the cluster: kept in a Secret, their public half in a ConfigMap for agents and in the APIService for the API server.

Any number of gateways share them; a write names the version it was made from, and who comes second reads again.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import logging
import ssl
from collections.abc import Callable

from skerry_api import streaming
from skerry_operator import client, errors
from skerry_operator.client import Client, Json
from skerry_operator.gateway import certificates, keyring
from skerry_operator.gateway.keyring import Generation, Timing

SECRET_NAME = "skerry-stream-keys"  # noqa: S105 - a name
_SECRET_KEY = "keys.json"  # noqa: S105 - a name
_APISERVICE_PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{streaming.VERSION}.{streaming.GROUP}"
_TRIES = 5
_LOG = logging.getLogger("skerry.gateway")


@dataclasses.dataclass(frozen=True, slots=True)
class Own:
    """What this gateway shows: a certificate for its door, one for the agents' doors, and whom it trusts there."""

    server: certificates.Pair
    client: certificates.Pair
    authorities: str
    signing: Generation
    made_at: datetime.datetime

    def agent_context(self) -> ssl.SSLContext:
        """For connections to agents."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.authorities)
        certificates.load(context, self.client)
        return context


class Trust:
    """Keys in step with the cluster. `refresh` before anything else, and then every `timing.refresh_seconds`."""

    def __init__(
        self, connection: Client, *, system_namespace: str, hosts: tuple[str, ...], timing: Timing, now: Callable[[], datetime.datetime]
    ) -> None:
        self.timing = timing
        self._client = connection
        self._hosts = hosts
        self._now = now
        namespace = f"/api/v1/namespaces/{system_namespace}"
        self._secrets, self._maps = f"{namespace}/secrets", f"{namespace}/configmaps"
        self._generations: tuple[Generation, ...] = ()
        self._own: Own | None = None

    @property
    def own(self) -> Own:
        """As of the last refresh."""
        assert self._own is not None
        return self._own

    @property
    def signing(self) -> Generation:
        """Whose keys sign now."""
        return keyring.find_signing(self._generations, self.timing, now=self._now())

    async def refresh(self) -> bool:
        """Turn the keys where it is time, publish them, renew our certificates. Whether `own` changed. Raises errors.RequestFailed."""
        generations = await self._turn()
        if generations != self._generations:
            _LOG.info("stream keys generations=%s", ",".join(each.name for each in generations))
        self._generations = generations
        await self._publish()
        return self._renew()

    async def _turn(self) -> tuple[Generation, ...]:
        for _ in range(_TRIES):
            try:
                found: Json | None = await self._client.request("GET", f"{self._secrets}/{SECRET_NAME}")
            except errors.NotFound:
                found = None
            known = () if found is None else _parse(found)
            wanted = keyring.turn(known, self.timing, now=self._now())
            if wanted == known:
                return known
            try:
                await self._write(found, wanted)
            except errors.Conflict:
                continue
            return wanted
        raise errors.Unavailable(f"secret {SECRET_NAME} changes under our hands")

    async def _write(self, found: Json | None, generations: tuple[Generation, ...]) -> None:
        data = {_SECRET_KEY: base64.b64encode(keyring.render(generations).encode()).decode()}
        if found is None:
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET_NAME}, "type": "skerry.dev/stream-keys", "data": data}
            await self._client.request("POST", self._secrets, body=body)
        else:
            await self._client.request("PUT", f"{self._secrets}/{SECRET_NAME}", body={**found, "data": data})

    async def _publish(self) -> None:
        """The public half, written where it differs."""
        rendered = keyring.render_trust(self._generations)
        data = {
            streaming.TRUST_CA: rendered["authorities"],
            streaming.TRUST_KEYS: rendered["keys"],
            streaming.TRUST_REFRESH: f"{self.timing.refresh_seconds:g}",
        }
        path = f"{self._maps}/{streaming.TRUST_NAME}"
        try:
            found = await self._client.request("GET", path)
        except errors.NotFound:
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": streaming.TRUST_NAME}, "data": data}
            await self._client.request("POST", self._maps, body=body)
        else:
            if found.get("data") != data:
                await self._client.request("PATCH", path, body={"data": data}, content_type=client.MERGE)
        await self._publish_bundle(base64.b64encode(rendered["authorities"].encode()).decode())

    async def _publish_bundle(self, bundle: str) -> None:
        try:
            found = await self._client.request("GET", _APISERVICE_PATH)
        except errors.NotFound:
            _LOG.warning("no APIService %s.%s: nobody can reach this gateway; apply the one of the chart", streaming.VERSION, streaming.GROUP)
            return
        if found["spec"].get("caBundle") != bundle:
            await self._client.request("PATCH", _APISERVICE_PATH, body={"spec": {"caBundle": bundle}}, content_type=client.MERGE)

    def _renew(self) -> bool:
        now, signing, authorities = self._now(), self.signing, keyring.bundle(self._generations)
        own = self._own
        is_fresh = own is not None and own.signing == signing and now < own.made_at + self.timing.leaf / 3
        if own is not None and is_fresh:
            if own.authorities == authorities:
                return False
            self._own = dataclasses.replace(own, authorities=authorities)
            return True
        server = certificates.make_leaf(
            signing.authority, self._hosts[0], dns_names=self._hosts, usages=[certificates.SERVER], now=now, lifetime=self.timing.leaf
        )
        caller = certificates.make_leaf(
            signing.authority, streaming.GATEWAY_NAME, usages=[certificates.CLIENT], now=now, lifetime=self.timing.leaf
        )  # fmt: skip
        self._own = Own(server=server, client=caller, authorities=authorities, signing=signing, made_at=now)
        return True


def _parse(secret: Json) -> tuple[Generation, ...]:
    try:
        return keyring.parse(base64.b64decode(secret["data"][_SECRET_KEY]).decode())
    except (ValueError, LookupError) as error:
        raise errors.Refused(f"secret {SECRET_NAME} does not hold the gateway's keys: delete it, and new ones are made") from error
