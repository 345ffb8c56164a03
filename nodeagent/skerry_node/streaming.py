"""The gateway's door of this agent, from the first certificate to the last: trust is read again and again, streams outlive its changes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import socket
import time
import urllib.parse
from collections.abc import Callable

from aiohttp import web

from skerry_node import errors
from skerry_node.cluster import trust
from skerry_node.cluster.client import Client
from skerry_node.serving import door, routes
from skerry_node.serving.admission import Admission
from skerry_node.serving.backend import Backend
from skerry_node.serving.listener import Listener
from skerry_node.settings import Settings

_LOG = logging.getLogger("skerry.streaming")
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts; the last one repeats."""


class Door:
    """Runs until cancelled. Sandboxes do not depend on it: whatever fails here is said and tried again."""

    def __init__(
        self, settings: Settings, api: Client, backend: Backend, *, announce: Callable[[str, int], None], certified: Callable[[float], None]
    ) -> None:
        self._settings = settings
        self._api = api
        self._announce = announce
        self._certified = certified
        self._admission = Admission(settings.node_name, now_ms=lambda: time.time_ns() // 1_000_000)
        application = door.make_application(backend, self._admission, handlers=routes.make_stream_routes(backend))
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        self._trust: trust.Trust | None = None
        self._certificate: trust.Certificate | None = None
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        await self._runner.setup()
        assert self._runner.server is not None
        listener = Listener(self._runner.server, self._settings.stream_address)
        failures = 0
        try:
            while True:
                try:
                    await self._refresh(listener)
                except (errors.SourceUnavailable, OSError, ValueError) as error:
                    self._say(error)
                    await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                    failures += 1
                    continue
                failures, self._problem = 0, ""
                assert self._trust is not None
                await asyncio.sleep(self._trust.refresh_seconds)
        finally:
            listener.close()
            await self._runner.cleanup()

    async def _refresh(self, listener: Listener) -> None:
        """Trust, certificate and door as they should be now. Raises errors.SourceUnavailable, OSError, ValueError."""
        found = await trust.read(self._api, self._settings.system_namespace)
        now = datetime.datetime.now(datetime.UTC)
        certificate = self._certificate
        is_signed_anew = certificate is None or now >= certificate.renew_at
        if certificate is None or is_signed_anew:
            certificate = await trust.obtain(self._api, self._settings.node_name, now=now)
        self._admission.trust(found.keys)
        if is_signed_anew or self._trust is None or found.authorities != self._trust.authorities:
            await listener.serve(certificate.context(found.authorities))
            address, port = listener.address
            self._announce(await asyncio.to_thread(_own_address, address, self._api.server), port)
            _LOG.info("door for the gateway open port=%d renewed_at=%s", port, certificate.renew_at.isoformat(timespec="seconds"))
        self._certified(certificate.ends_at.timestamp())
        self._trust, self._certificate = found, certificate

    def _say(self, error: Exception) -> None:
        """Once per problem; that there is no gateway is nobody's fault."""
        if (problem := str(error)) != self._problem:
            level = logging.INFO if isinstance(error, trust.NoTrustYet) else logging.WARNING
            _LOG.log(level, "door for the gateway problem=%s", problem)
            self._problem = problem


def _own_address(bound: str, server: str) -> str:
    """*bound*, or where it is every address, the one from which this node reaches the API server at *server*. May block on DNS."""
    with contextlib.suppress(ValueError):
        if not ipaddress.ip_address(bound).is_unspecified:
            return bound
    parts = urllib.parse.urlsplit(server)
    host, port = parts.hostname or "127.0.0.1", parts.port or 443
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)  # sends nothing: it asks the kernel for a route
        return str(probe.getsockname()[0])
