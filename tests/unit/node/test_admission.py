"""The agent's memory of tickets: each once, and no more of them than it can hold."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_api import streaming
from skerry_api.streaming import BadTicket, Ticket
from skerry_node.serving import admission
from skerry_node.serving.admission import Admission

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
GOOD = Ticket(
    key_id="k", node="n1", uid="u1", subresource="logs", verb="get", request_hash=streaming.hash_request("logs", []), nonce="once", user="ann",
    issued_at=1_000_000, expires_at=1_030_000,
)  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def _signed(**changes: object):
    claims = streaming.render_claims(dataclasses.replace(GOOD, **changes))
    return streaming.join(claims, KEY.sign(claims))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def door(clock):
    made = Admission("n1", now_ms=clock)
    made.trust({"k": KEY.public_key().public_bytes_raw()})
    return made


def _admit(door, text):
    return door.admit(text, uid="u1", subresource="logs", query=[])


def test_a_ticket_opens_once(door):
    """The second time is a replay."""
    assert _admit(door, _signed()) == GOOD
    with pytest.raises(BadTicket, match="used before"):
        _admit(door, _signed())


def test_a_ticket_that_was_refused_is_not_used(door):
    """A wrong request does not burn the ticket of the right one."""
    with pytest.raises(BadTicket, match="another sandbox"):
        door.admit(_signed(), uid="u2", subresource="logs", query=[])
    assert _admit(door, _signed()).nonce == "once"


def test_keys_that_are_no_longer_trusted_open_nothing(door):
    """Trust is what was published last."""
    door.trust({"other": KEY.public_key().public_bytes_raw()})
    with pytest.raises(BadTicket, match="does not know"):
        _admit(door, _signed())


def test_memory_is_bounded_and_frees_itself(door, clock, monkeypatch):
    """Full of living tickets it lets nobody in; when they have run out it forgets them."""
    monkeypatch.setattr(admission, "MAX_NONCES", 3)
    for number in range(3):
        _admit(door, _signed(nonce=str(number)))
    with pytest.raises(BadTicket, match="too many"):
        _admit(door, _signed(nonce="4"))
    clock.now_ms += 31_000
    assert _admit(door, _signed(nonce="5", issued_at=clock.now_ms, expires_at=clock.now_ms + 30_000))
