"""Law 7: a list that suddenly lacks many sandboxes is not believed at once."""

from __future__ import annotations

import pytest

from skerry_node.orphans import CONFIRM_SECONDS, Watch


@pytest.mark.parametrize(
    ("missing", "known", "is_held"),
    [
        pytest.param(0, 10, False, id="all is well: nothing missing"),
        pytest.param(2, 10, False, id="two of ten deleted"),
        pytest.param(3, 3, False, id="three of three: few enough to be true"),
        pytest.param(10, 10, True, id="an empty list"),
        pytest.param(6, 10, True, id="more than half"),
        pytest.param(5, 10, False, id="half"),
    ],
)
def test_a_suspicious_list_is_held(missing, known, is_held):
    """What is held is not acted on."""
    uids = {f"u{number}" for number in range(missing)}
    held = Watch().hold(uids, known=known, now=0.0)
    assert held == (uids if is_held else frozenset())


def test_a_second_list_confirms():
    """The second complete list that lacks the same sandboxes is believed."""
    watch, uids = Watch(), {f"u{number}" for number in range(10)}
    assert watch.hold(uids, known=10, now=0.0) == uids
    assert watch.hold(uids, known=10, now=1.0) == frozenset()


def test_time_confirms():
    """Without another list, a minute does."""
    watch, uids = Watch(), {f"u{number}" for number in range(10)}
    watch.hold(uids, known=10, now=0.0)
    assert watch.release(now=CONFIRM_SECONDS - 1) == frozenset()
    assert watch.release(now=CONFIRM_SECONDS) == uids
    assert watch.release(now=CONFIRM_SECONDS + 1) == frozenset()
