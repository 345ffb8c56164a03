"""The parts of a running gateway, and what keeps them fresh: keys and certificates, and how the API server proves itself."""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl

import aiohttp
from aiohttp import web
from cryptography import x509

from skerry_operator import errors
from skerry_operator.client import Client
from skerry_operator.gateway import certificates, identity, proxying, routes
from skerry_operator.gateway.keyring import Timing
from skerry_operator.gateway.listener import Listener
from skerry_operator.gateway.meters import Meters
from skerry_operator.gateway.settings import Settings
from skerry_operator.gateway.signing import Signer
from skerry_operator.gateway.targets import Targets
from skerry_operator.gateway.trust import Trust

_LOG = logging.getLogger("skerry.gateway")
_RETRY_SECONDS = 1.0


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Service:
    """Serves until cancelled. Needs the API server to start; a running one goes on with what it knows while the API server is away."""

    def __init__(self, settings: Settings, connection: Client) -> None:
        self.settings = settings
        self.client = connection
        self.meters = Meters()
        self.session: aiohttp.ClientSession = proxying.make_session()
        timing = Timing(generation=datetime.timedelta(days=settings.key_days))
        self.trust = Trust(connection, system_namespace=settings.system_namespace, hosts=settings.hosts, timing=timing, now=_now)
        self.targets = Targets(connection)
        self._signer = Signer(connection, self.trust, agent_account=settings.account, now=_now)
        self._config: identity.Config | None = None
        self._agent_context: ssl.SSLContext | None = None

    @property
    def config(self) -> identity.Config:
        """How the API server proves itself, as of the last refresh."""
        assert self._config is not None
        return self._config

    @property
    def agent_context(self) -> ssl.SSLContext:
        """For connections to agents, as of the last refresh."""
        assert self._agent_context is not None
        return self._agent_context

    async def run(self) -> None:
        """Until cancelled. Raises errors.Unconfigured where the API server has no aggregation layer."""
        if self.settings.metrics_port:
            self.meters.serve(self.settings.metrics_port)
        while True:
            try:
                await self._refresh()
                break
            except errors.RequestFailed as error:
                _LOG.warning("not ready problem=%s", error)
                await asyncio.sleep(_RETRY_SECONDS)
        runner = web.AppRunner(
            routes.make_application(self), handler_cancellation=True, access_log=None, shutdown_timeout=1.0, auto_decompress=False
        )  # fmt: skip
        await runner.setup()
        assert runner.server is not None
        listener = Listener(runner.server, self.settings.listen)
        try:
            await listener.serve(self._door_context())
            _LOG.info("gateway ready address=%s", listener.address)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._signer.run())
                tasks.create_task(self._keep_fresh(listener))
        finally:
            listener.close()
            await runner.cleanup()
            await self.session.close()

    async def _keep_fresh(self, listener: Listener) -> None:
        while True:
            await asyncio.sleep(self.trust.timing.refresh_seconds)
            try:
                if await self._refresh():
                    await listener.serve(self._door_context())
                    _LOG.info("certificates renewed")
            except (errors.RequestFailed, errors.Unconfigured) as error:
                _LOG.warning("not refreshed problem=%s", error)

    async def _refresh(self) -> bool:
        """Whether the door needs another context. Raises errors.RequestFailed, errors.Unconfigured."""
        config = await self._read_config()
        is_changed = await self.trust.refresh()
        if is_changed:
            self._agent_context = self.trust.own.agent_context()
            for name, pair in (("gateway", self.trust.own.server), ("gateway-client", self.trust.own.client)):
                self.meters.certified(name, x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp())
        is_changed = is_changed or config != self._config
        self._config = config
        return is_changed

    async def _read_config(self) -> identity.Config:
        answer = await self.client.request("GET", identity.CONFIG_PATH)
        try:
            return identity.parse_config(answer.get("data") or {})
        except ValueError as error:
            raise errors.Unconfigured(str(error)) from error

    def _door_context(self) -> ssl.SSLContext:
        """A client certificate is asked for, not demanded: who has none is told so, in HTTP, and audited."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.config.ca_pem)
        certificates.load(context, self.trust.own.server)
        context.set_alpn_protocols(["http/1.1"])
        return context
