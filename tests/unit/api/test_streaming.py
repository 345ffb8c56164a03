"""Tickets as text and as values: what is read back is what was written, and nothing else is read."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_api import streaming
from skerry_api.streaming import BadTicket, Ticket

GOOD = Ticket(
    key_id="k", node="n1", uid="u1", subresource="exec", verb="create", request_hash=streaming.hash_request("exec", [("command", "id")]),
    nonce="once", user="ann", issued_at=1_000_000, expires_at=1_030_000,
)  # fmt: skip


def test_a_ticket_survives_the_way():
    """Claims and signature come back as they went."""
    claims, signature = streaming.split(streaming.join(streaming.render_claims(GOOD), b"\x00\xff" * 32))
    assert streaming.parse_claims(claims) == GOOD
    assert signature == b"\x00\xff" * 32


@given(st.binary(max_size=300) | st.sampled_from([b"{}", b"[]", b'{"key_id": 1}', b"[" * 9999]))
def test_other_bytes_are_no_ticket(data):
    """Whatever is no ticket is refused with one error."""
    with pytest.raises(BadTicket):
        streaming.parse_claims(data)


@given(st.text(max_size=50))
def test_other_text_is_no_ticket(text):
    """Whatever stands in the header, it is claims and signature or BadTicket."""
    try:
        claims, _ = streaming.split(text)
    except BadTicket:
        return
    with pytest.raises(BadTicket):
        streaming.parse_claims(claims)


@pytest.mark.parametrize(("field", "value"), [("issued_at", True), ("issued_at", "1"), ("expires_at", 1.5), ("uid", 7), ("nonce", None)], ids=str)
def test_claims_have_their_types(field, value):
    """A boolean is no time, a number no name."""
    with pytest.raises(BadTicket):
        streaming.parse_claims(streaming.render_claims(dataclasses.replace(GOOD, **{field: value})))


@pytest.mark.parametrize(
    ("now_ms", "opened_ms", "problem"),
    [
        pytest.param(1_000_500, 0, None, id="all is well"),
        pytest.param(1_030_000, 0, None, id="its last moment"),
        pytest.param(1_030_001, 0, "expired", id="expired"),
        pytest.param(995_000, 0, None, id="a clock five seconds behind"),
        pytest.param(994_999, 0, "in the future", id="a clock further behind"),
        pytest.param(1_000_500, 1_000_001, "older than this agent", id="issued before the agent's memory begins"),
    ],
)
def test_when_a_ticket_holds(now_ms, opened_ms, problem):
    """Thirty seconds, five of skew, and never across a start of the agent."""
    if problem is None:
        streaming.check_time(GOOD, now_ms=now_ms, opened_ms=opened_ms)
    else:
        with pytest.raises(BadTicket, match=problem):
            streaming.check_time(GOOD, now_ms=now_ms, opened_ms=opened_ms)


_QUERIES = st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=4)


@given(_QUERIES, _QUERIES)
def test_different_queries_have_different_hashes(first, second):
    """No two ways to cut the same characters into words are the same command."""
    assert (streaming.hash_request("exec", first) == streaming.hash_request("exec", second)) == (first == second)
