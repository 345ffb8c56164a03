"""Tickets at the agent's door: signed by the gateway, for this node, this sandbox and this request, young, and used once.

What a ticket says is in skerry_api.streaming. The API server is not asked: whoever holds a ticket was allowed through there a moment ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from skerry_api import streaming
from skerry_api.streaming import BadTicket, Ticket

MAX_NONCES = 200_000
"""Used tickets that may be remembered at once: 3,000 streams a second for longer than a ticket lives, and 40 MB."""


class Admission:
    """Remembers which tickets were used. *now_ms* is the node's clock: unix milliseconds."""

    def __init__(self, node_name: str, *, now_ms: Callable[[], int]) -> None:
        self._node_name = node_name
        self._now_ms = now_ms
        self._opened_ms = now_ms()
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._used: dict[str, int] = {}

    def trust(self, keys: Mapping[str, bytes]) -> None:
        """Believe these raw public keys, by name, and no others. Raises ValueError."""
        self._keys = {name: Ed25519PublicKey.from_public_bytes(raw) for name, raw in keys.items()}

    def admit(self, text: str, *, uid: str, subresource: str, query: Iterable[tuple[str, str]]) -> Ticket:
        """The ticket in *text*, now used, for a request on the sandbox that has *uid* here. Raises BadTicket."""
        ticket = self._verify(text)
        now_ms = self._now_ms()
        streaming.check_time(ticket, now_ms=now_ms, opened_ms=self._opened_ms)
        streaming.check_request(
            ticket, node=self._node_name, uid=uid, subresource=subresource, request_hash=streaming.hash_request(subresource, query)
        )
        self._use(ticket, now_ms)
        return ticket

    def _verify(self, text: str) -> Ticket:
        claims, signature = streaming.split(text)
        ticket = streaming.parse_claims(claims)
        key = self._keys.get(ticket.key_id)
        if key is None:
            raise BadTicket("signed by a key that this agent does not know")
        try:
            key.verify(signature, claims)
        except InvalidSignature as error:
            raise BadTicket("the signature is wrong") from error
        return ticket

    def _use(self, ticket: Ticket, now_ms: int) -> None:
        if ticket.nonce in self._used:
            raise BadTicket("used before")
        if len(self._used) >= MAX_NONCES:
            self._used = {nonce: end for nonce, end in self._used.items() if end >= now_ms}
            if len(self._used) >= MAX_NONCES:
                raise BadTicket("too many tickets in a short time: try again in a minute")
        self._used[ticket.nonce] = ticket.expires_at
