"""Restarts of what keeps ending."""

from __future__ import annotations

from skerry_node.backoff import Backoff


def test_restarts_are_held_back_as_the_kubelet_does():
    """At once, then 10 s doubled up to 5 min."""
    rule = Backoff()
    assert [rule.held_seconds(crashes) for crashes in range(9)] == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert rule.held_seconds(100_000) == 300


def test_a_long_run_forgives_all_that_was_before():
    """After 10 min of running the next end is the first again, and so is the one after it the second."""
    rule, crashes, held = Backoff(), 0, []
    for ran in (1.0, 1.0, 1.0, 599.0, 600.0, 1.0, 1.0):
        crashes = rule.count(crashes, ran_seconds=ran)
        held.append(rule.held_seconds(crashes))
        crashes += 1
    assert held == [0, 10, 20, 40, 0, 10, 20]
