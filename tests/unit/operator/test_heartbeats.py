"""Silence, by our own clock."""

from __future__ import annotations

import pytest

from skerry_operator.heartbeats import Heartbeats


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param([(0, "1"), (10, "2"), (20, "3")], (False, True), id="all is well"),
        pytest.param([(0, "1")], (False, False), id="a Lease that is there is not yet a heartbeat"),
        pytest.param([(0, "1"), (10, "1"), (20, "1"), (30, "1")], (False, False), id="silent for 30"),
        pytest.param([(0, "1"), (10, "1"), (20, "1"), (30, "1"), (40, "1")], (True, False), id="silent for 40"),
        pytest.param([(0, None), (10, None), (20, None), (30, None), (40, None)], (True, False), id="never a Lease"),
        pytest.param([(0, "1"), (10, "2"), (20, None), (30, None), (40, None), (50, None)], (True, False), id="its Lease was deleted"),
        pytest.param([(0, "1"), (10, "1"), (20, "1"), (30, "1"), (40, "1"), (50, "2")], (False, True), id="back"),
        pytest.param([(0, "1"), (100, "1")], (False, False), id="we were blind, not the node silent"),
        pytest.param([(0, "9"), (10, "8")], (False, True), id="its clock runs backwards: a change is a change"),
    ],
)
def test_a_node_is_lost_after_40_seconds_of_silence(readings, expected):
    """And heard once a renewal was seen to happen."""
    heartbeats = Heartbeats(40)
    heartbeats.expect("a", 0)
    for now, renewal in readings:
        heartbeats.observe({} if renewal is None else {"a": renewal}, now)
    assert (heartbeats.is_lost("a"), heartbeats.is_heard("a")) == expected


def test_forgotten_nodes_are_not_lost():
    heartbeats = Heartbeats(40)
    heartbeats.expect("a", 0)
    for now in range(0, 50, 10):
        heartbeats.observe({}, now)
    heartbeats.retain(["b"])
    assert not heartbeats.is_lost("a")
