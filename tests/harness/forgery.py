"""Calls that no honest party would make: tickets and certificates with the gateway's own keys, and requests as if from the API server."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import ssl
from typing import Any

from skerry_api import streaming
from skerry_api.streaming import Ticket
from skerry_operator.gateway import certificates, keyring, ticketing
from skerry_operator.gateway.keyring import Generation
from skerry_operator.gateway.trust import SECRET_NAME
from tests.harness.controlplane import ControlPlane


class Forger:
    """Whoever holds the gateway's Secret."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        secret = plane.get("secret", SECRET_NAME, "-n", namespace)
        self.generation: Generation = keyring.parse(base64.b64decode(secret["data"]["keys.json"]).decode())[-1]

    def agent_context(self, *, name: str = streaming.GATEWAY_NAME, usage: Any = certificates.CLIENT) -> ssl.SSLContext:
        """For an agent's door, as *name*."""
        now = datetime.datetime.now(datetime.UTC)
        pair = certificates.make_leaf(self.generation.authority, name, usages=[usage], now=now, lifetime=datetime.timedelta(hours=1))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.generation.authority.certificate.decode())
        certificates.load(context, pair)
        return context

    def proxy_context(self, *, with_certificate: bool = True) -> ssl.SSLContext:
        """For the gateway's door, as kube-apiserver, or as nobody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.generation.authority.certificate.decode())
        if with_certificate:
            place = f"{self._plane.directory}/front-proxy-client"
            context.load_cert_chain(f"{place}.crt", f"{place}.key")
        return context

    def ticket(self, sandbox: dict[str, Any], *, subresource: str = "logs", query: tuple[tuple[str, str], ...] = (), **changes: Any) -> str:
        """A good ticket for *sandbox* (its JSON), with *changes* to its claims."""
        text = ticketing.issue(
            self.generation, node=sandbox["spec"]["nodeName"], uid=sandbox["metadata"]["uid"], subresource=subresource, query=query, user="forger"
        )
        ticket: Ticket = streaming.parse_claims(streaming.split(text)[0])
        return ticketing.sign(self.generation, dataclasses.replace(ticket, **changes))
