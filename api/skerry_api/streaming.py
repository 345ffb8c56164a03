"""What gateway and agents agree on: subresources, names in certificates, and the ticket that lets one stream through. Pure; signing is theirs.

A ticket is `base64url(JSON claims) . base64url(Ed25519 signature over the former's bytes)`. It holds for one request: one sandbox by uid, one node,
one subresource, one query (the argv of an exec stands there), for LIFETIME_SECONDS and once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

GROUP, VERSION = "stream.skerry.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
VERBS = {
    "exec": "create", "attach": "create", "cp": "create", "portforward": "create", "signal": "create",
    "execs": "get", "logs": "get", "stats": "get", "top": "get",
}  # fmt: skip
"""Which right each subresource asks for, whatever the HTTP method."""

TICKET_HEADER = "X-Skerry-Ticket"
REFUSAL_HEADER = "X-Skerry-Refusal"
"""The agent's {reason, message, field} as ASCII JSON beside the status: the body of a refused upgrade is read by no WebSocket client."""
LIFETIME_SECONDS = 30
SKEW_SECONDS = 5
"""How far the clocks of gateway and node may be apart."""
MAX_TICKET_CHARACTERS = 4096

SIGNER = "skerry.dev/agent-serving"
"""The signerName of agents' CertificateSigningRequests."""
GATEWAY_NAME = "skerry-gateway"
"""The common name in the gateway's client certificate."""
TRUST_NAME = "skerry-stream-trust"
"""The ConfigMap, in the system namespace, with what agents trust: TRUST_CA, TRUST_KEYS, TRUST_REFRESH."""
TRUST_CA, TRUST_KEYS, TRUST_REFRESH = "ca.crt", "ticket-keys.json", "refresh-seconds"


class BadTicket(ValueError):
    """It is no ticket, or not one for this request; the message says in which respect."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The claims; times are unix milliseconds of the gateway's clock."""

    key_id: str
    node: str
    uid: str
    subresource: str
    verb: str
    request_hash: str
    nonce: str
    user: str
    issued_at: int
    expires_at: int


def agent_host(node_name: str) -> str:
    """The name in an agent's certificate: no Service's name ends so."""
    return f"{node_name}.agent.skerry"


def hash_request(subresource: str, query: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the subresource and the query's pairs in their order, each part with its length before it."""
    digest = hashlib.sha256()
    for part in (subresource, *(text for pair in query for text in pair)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def render_claims(ticket: Ticket) -> bytes:
    """The bytes that are signed."""
    return json.dumps(asdict(ticket), separators=(",", ":"), sort_keys=True).encode()


def join(claims: bytes, signature: bytes) -> str:
    """The text that goes into the header."""
    return f"{_encode(claims)}.{_encode(signature)}"


def split(text: str) -> tuple[bytes, bytes]:
    """Claims and signature as bytes, nothing of them believed yet. Raises BadTicket."""
    if len(text) > MAX_TICKET_CHARACTERS:
        raise BadTicket(f"longer than {MAX_TICKET_CHARACTERS} characters")
    claims, _, signature = text.partition(".")
    try:
        return _decode(claims), _decode(signature)
    except (ValueError, binascii.Error) as error:
        raise BadTicket("not a ticket") from error


def parse_claims(claims: bytes) -> Ticket:
    """The ticket in *claims*. Raises BadTicket."""
    try:
        raw = json.loads(claims)
        ticket = Ticket(**raw)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadTicket("not a ticket") from error
    numbers = (ticket.issued_at, ticket.expires_at)
    texts = (value for name, value in asdict(ticket).items() if name not in {"issued_at", "expires_at"})
    if not all(type(each) is int for each in numbers) or not all(isinstance(each, str) for each in texts):
        raise BadTicket("not a ticket")
    return ticket


def check_time(ticket: Ticket, *, now_ms: int, opened_ms: int) -> None:
    """Raises BadTicket unless *ticket* holds at *now_ms* on a door that opened, with an empty memory of nonces, at *opened_ms*."""
    if ticket.expires_at - ticket.issued_at > LIFETIME_SECONDS * 1000:
        raise BadTicket(f"made for more than {LIFETIME_SECONDS} s")
    if now_ms > ticket.expires_at:
        raise BadTicket("expired")
    if ticket.issued_at > now_ms + SKEW_SECONDS * 1000:
        raise BadTicket("issued in the future: the clocks of gateway and node differ")
    if ticket.issued_at < opened_ms:
        raise BadTicket("older than this agent's start: ask again")


def check_request(ticket: Ticket, *, node: str, uid: str, subresource: str, request_hash: str) -> None:
    """Raises BadTicket unless *ticket* is for this request."""
    if ticket.node != node:
        raise BadTicket("for another node")
    if ticket.uid != uid:
        raise BadTicket("for another sandbox of that name")
    if ticket.subresource != subresource or ticket.verb != VERBS.get(subresource):
        raise BadTicket("for another subresource")
    if ticket.request_hash != request_hash:
        raise BadTicket("for other arguments")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
