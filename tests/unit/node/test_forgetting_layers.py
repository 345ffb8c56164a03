"""A layer that is let go of: what shells had it on, and whose slots those are."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from skerry_node import act


class _Keeper:
    """Says that the shells in slots 5 and 6 had the layer on."""

    async def forget_layer(self, _layer):
        return (5, 6)


class _Leases:
    def __init__(self) -> None:
        self.released = []

    def release(self, slot):
        self.released.append(slot)


@pytest.mark.parametrize(
    ("shells", "released"),
    [
        pytest.param({5: ("old",), 6: ("old",), 7: None}, [5, 6], id="both still wait"),
        pytest.param({6: ("old",)}, [6], id="a sandbox of another image has taken one, and keeps its slot"),
        pytest.param({}, [], id="both are taken"),
    ],
)
def test_only_slots_of_waiting_shells_are_given_back(shells, released):
    """A slot fixes a range of ids: given back while a sandbox has it, two would share theirs."""
    leases = _Leases()
    hands = SimpleNamespace(keeper=_Keeper(), view=SimpleNamespace(leases=leases), shells=dict(shells), spent=[], favourite=("old",))
    asyncio.run(act.forget_layer(hands, "old"))
    assert leases.released == released
    assert hands.spent == released
    assert set(hands.shells) == set(shells) - {5, 6}
    assert hands.favourite is None
