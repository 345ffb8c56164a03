"""What the agent remembers of its builds' sandboxes."""

from __future__ import annotations

import types
from typing import Any

from skerry_node import building


class Keeper:
    """Takes note of what it is told to unmount."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget_layer(self, layer: str) -> tuple[int, ...]:
        self.forgotten.append(layer)
        return ()


async def test_layers_that_went_are_unmounted_once() -> None:
    """A layer that a RUN had below it, and that the store has let go of, keeps no disk space; one that is there stays mounted."""
    keeper = Keeper()
    hands: Any = types.SimpleNamespace(keeper=keeper, shells={}, favourite=None, spent=[], view=None)
    store: Any = types.SimpleNamespace(has_layer=lambda diff_id: None if diff_id == "gone" else 1)
    runner = building.Runner(hands=hands, guests=building.Guests(), poke=lambda _: None)
    runner._mounted = {"gone": "gone.erofs", "there": "there.erofs"}
    await runner.forget_gone(store)
    await runner.forget_gone(store)
    assert keeper.forgotten == ["gone.erofs"]


def test_guests_are_no_business_of_the_loop() -> None:
    """While a build lives its sandbox is a guest, and its end is told to the build; afterwards it is an orphan like any."""
    guests = building.Guests()
    event = guests.add("one")
    assert guests.on_exit("one")
    assert event.is_set()
    assert not guests.on_exit("other")
    assert guests.uids == {"one"}
    guests.drop("one")
    guests.drop("one")
    assert not guests.on_exit("one")
    assert guests.uids == frozenset()
