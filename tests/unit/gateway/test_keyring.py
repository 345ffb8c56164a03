"""Keys by age: published before they sign, kept until what they signed has ended."""

from __future__ import annotations

import datetime

import pytest

from skerry_operator.gateway import keyring
from skerry_operator.gateway.keyring import Timing

TIMING = Timing()
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY, MINUTE = datetime.timedelta(days=1), datetime.timedelta(minutes=1)


def _turned(*moments: datetime.timedelta):
    found = ()
    for moment in moments:
        found = keyring.turn(found, TIMING, now=START + moment)
    return found


FIRST = _turned(0 * DAY)


@pytest.mark.parametrize(
    ("after", "names", "signing"),
    [
        pytest.param(0 * DAY, 1, 0, id="the only one signs at once"),
        pytest.param(59 * DAY, 1, 0, id="nothing to do"),
        pytest.param(60 * DAY, 2, 0, id="a second is published, the first signs on"),
    ],
)
def test_turning(after, names, signing):
    """One generation for sixty days, then two."""
    found = keyring.turn(FIRST, TIMING, now=START + after)
    assert len(found) == names
    assert found[0] == FIRST[0]
    assert keyring.find_signing(found, TIMING, now=START + after) == found[signing]


def test_the_second_signs_when_all_know_it_and_the_first_goes_when_its_leaves_have():
    """Ten minutes of overlap; a day of leaves."""
    two = keyring.turn(FIRST, TIMING, now=START + 60 * DAY)
    moment = START + 60 * DAY
    assert keyring.find_signing(two, TIMING, now=moment + 9 * MINUTE) == two[0]
    assert keyring.find_signing(two, TIMING, now=moment + 10 * MINUTE) == two[1]
    assert keyring.turn(two, TIMING, now=moment + DAY + 9 * MINUTE) == two
    assert keyring.turn(two, TIMING, now=moment + DAY + 10 * MINUTE) == two[1:]


def test_turning_twice_is_turning_once():
    """Same input, nothing new."""
    assert keyring.turn(FIRST, TIMING, now=START + DAY) == FIRST


def test_keys_survive_the_secret():
    """What is read is what was written."""
    assert keyring.parse(keyring.render(FIRST)) == FIRST


@pytest.mark.parametrize("text", ["", "{}x", '[{"name": "a"}]', "[1]", '{"a": 1}'])
def test_other_secrets_are_refused(text):
    """A Secret that somebody else wrote is an error that can be told."""
    with pytest.raises(ValueError, match=r".+"):
        keyring.parse(text)
