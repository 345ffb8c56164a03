"""Tickets, signed: see skerry_api.streaming for what they say."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_api import streaming
from skerry_api.streaming import Ticket
from skerry_operator.gateway.keyring import Generation


def issue(generation: Generation, *, node: str, uid: str, subresource: str, query: Iterable[tuple[str, str]], user: str) -> str:
    """A ticket for one request, as it goes into the header."""
    issued_at = int(time.time() * 1000)
    return sign(generation, Ticket(
        key_id=generation.name, node=node, uid=uid, subresource=subresource, verb=streaming.VERBS[subresource],
        request_hash=streaming.hash_request(subresource, query), nonce=secrets.token_urlsafe(16), user=user[:256],
        issued_at=issued_at, expires_at=issued_at + streaming.LIFETIME_SECONDS * 1000,
    ))  # fmt: skip


def sign(generation: Generation, ticket: Ticket) -> str:
    """*ticket* with its signature."""
    claims = streaming.render_claims(ticket)
    return streaming.join(claims, Ed25519PrivateKey.from_private_bytes(generation.ticket_key).sign(claims))
