"""What this agent and the gateway believe of each other: the gateway's authorities and ticket keys, and a certificate from it for this node.

The agent's key is made here and stays in memory: an agent that starts again asks again. Nothing of the gateway's is on the node.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import datetime
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skerry_api import streaming
from skerry_node import errors
from skerry_node.cluster.client import Client, Json
from skerry_node.cluster.errors import Refused

_REQUESTS_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_POLLS = (0.05, 0.1, 0.2, 0.5, *[1.0] * 60)
"""Seconds between looks for the answer: a minute in all."""
_MAX_REFRESH_SECONDS = 60.0


class NoTrustYet(errors.SourceUnavailable):
    """No gateway has published anything: this cluster may have none."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What the gateway publishes."""

    authorities: str
    keys: Mapping[str, bytes]
    refresh_seconds: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of this node's agent, with its key, both PEM."""

    certificate: bytes
    key: bytes
    renew_at: datetime.datetime
    ends_at: datetime.datetime

    def context(self, authorities: str) -> ssl.SSLContext:
        """For a door that only holders of a certificate of *authorities* may pass."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authorities)
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)  # OpenSSL takes paths only: no disk sees the key
        try:
            os.write(descriptor, self.certificate + self.key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return context


async def read(client: Client, namespace: str) -> Trust:
    """The published trust. Raises NoTrustYet, errors.SourceUnavailable."""
    try:
        found = await client.get(f"/api/v1/namespaces/{namespace}/configmaps/{streaming.TRUST_NAME}")
    except Refused as error:
        if error.code == 404:
            raise NoTrustYet(f"no gateway has published {streaming.TRUST_NAME} in {namespace}") from error
        raise
    data = found.get("data") or {}
    try:
        keys = {str(name): base64.b64decode(text, validate=True) for name, text in json.loads(data[streaming.TRUST_KEYS]).items()}
        refresh_seconds = float(data[streaming.TRUST_REFRESH])
        return Trust(authorities=data[streaming.TRUST_CA], keys=keys, refresh_seconds=min(max(refresh_seconds, 0.5), _MAX_REFRESH_SECONDS))
    except (LookupError, ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise errors.SourceUnavailable(f"configmap {namespace}/{streaming.TRUST_NAME} cannot be read: {error!r}") from error


async def obtain(client: Client, node_name: str, *, now: datetime.datetime) -> Certificate:
    """A certificate for this node, signed by a gateway. Raises errors.SourceUnavailable, with the gateway's words when it refuses."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = _make_request(key, node_name).public_bytes(serialization.Encoding.PEM)
    body = {
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"generateName": "skerry-agent-"},
        "spec": {
            "request": base64.b64encode(request).decode(), "signerName": streaming.SIGNER, "usages": ["digital signature", "server auth"],
        },
    }  # fmt: skip
    created = await client.post(_REQUESTS_PATH, body)
    path = f"{_REQUESTS_PATH}/{created['metadata']['name']}"
    try:
        pem = await _await_answer(client, path)
    finally:
        await _remove(client, path)
    found = x509.load_pem_x509_certificate(pem)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(certificate=pem, key=private, renew_at=now + (found.not_valid_after_utc - now) * 2 / 3, ends_at=found.not_valid_after_utc)


def _make_request(key: ec.EllipticCurvePrivateKey, node_name: str) -> x509.CertificateSigningRequest:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "skerry-agent")])
    names = x509.SubjectAlternativeName([x509.DNSName(streaming.agent_host(node_name))])
    return x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False).sign(key, hashes.SHA256())


async def _await_answer(client: Client, path: str) -> bytes:
    for seconds in _POLLS:
        await asyncio.sleep(seconds)
        status: Json = (await client.get(path)).get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] in {"Denied", "Failed"}:
                raise errors.SourceUnavailable(f"the gateway signs no certificate for this node: {condition.get('message')}")
        if status.get("certificate"):
            return base64.b64decode(status["certificate"])
    raise errors.SourceUnavailable("no gateway signed this node's certificate within a minute: see whether one runs")


async def _remove(client: Client, path: str) -> None:
    """Nobody needs it any more; Kubernetes removes what stays after an hour."""
    with contextlib.suppress(errors.SourceUnavailable):
        await client.delete(path, {"apiVersion": "v1", "kind": "DeleteOptions"})
