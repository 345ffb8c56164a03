"""Packets that the rules of one bridge refused, by slot: counters in the kernel, which a scrape and `stats` read."""

from __future__ import annotations

from collections.abc import Callable, Collection

from skerry_node.kernel import nftables
from skerry_node.network.firewall import NAME_BYTES, Port
from skerry_node.network.ruleset import table_name

_Place = tuple[nftables.Table, str]
"""A set of a table."""


class Refusals:
    """*port_of* says what a slot is. One socket, and so for one thread at a time; `reopen` is for another."""

    def __init__(self, bridge: str, *, port_of: Callable[[int], Port]) -> None:
        self._bridge, self._port_of = bridge, port_of
        ip, ports = (nftables.Table(family, table_name(bridge)) for family in (nftables.INET, nftables.BRIDGE))
        self._places: tuple[_Place, _Place, _Place] = (ports, "refused_by_port"), (ip, "denied4"), (ip, "denied6")
        self._keys: dict[int, tuple[tuple[_Place, bytes], ...]] = {}
        self._kernel = nftables.Nftables()

    def reopen(self) -> Refusals:
        """The same with a socket of its own: a thread that read another's answers would leave it waiting for ever."""
        return Refusals(self._bridge, port_of=self._port_of)

    def close(self) -> None:
        """Let go of the socket."""
        self._kernel.close()

    def read(self, slots: Collection[int]) -> dict[int, int]:
        """Packets refused by slot since it was taken: spoofed ones by the port, all others by the policy. Raises OSError without rules."""
        counted = {place: self._kernel.count_packets(*place) for place in self._places}
        return {slot: sum(counted[place].get(key, 0) for place, key in self._find_keys(slot)) for slot in slots}

    def count(self, slot: int) -> int:
        """The same of one *slot*, without a walk over all; 0 without rules. Raises OSError."""
        elements = (self._kernel.find_element(*place, key) for place, key in self._find_keys(slot))
        return sum(element.packets for element in elements if element is not None)

    def _find_keys(self, slot: int) -> tuple[tuple[_Place, bytes], ...]:
        """Where a slot's packets are counted, and by what; a slot fixes that for good."""
        found = self._keys.get(slot)
        if found is None:
            port, (links, fours, sixes) = self._port_of(slot), self._places
            addresses = ((fours if address.version == 4 else sixes, address.packed) for address in port.addresses)
            found = self._keys[slot] = ((links, port.link.encode("ascii").ljust(NAME_BYTES, b"\x00")), *addresses)
        return found
