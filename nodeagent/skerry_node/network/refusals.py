"""Packets that the rules of one bridge refused, by slot: counters in the kernel, which a scrape and `stats` read."""

from __future__ import annotations

from collections.abc import Callable, Collection

from skerry_node.kernel import nftables
from skerry_node.network import chains
from skerry_node.network.firewall import NAME_BYTES, Port
from skerry_node.network.policy import Address
from skerry_node.network.ruleset import table_name


class Refusals:
    """*port_of* says what a slot is, *slot_of* whose an address is. One socket, and so for one thread at a time; `reopen` is for another."""

    def __init__(self, bridge: str, *, port_of: Callable[[int], Port], slot_of: Callable[[Address], int | None]) -> None:
        self._bridge, self._port_of, self._slot_of = bridge, port_of, slot_of
        self._ip = nftables.Table(nftables.INET, table_name(bridge))
        self._ports = nftables.Table(nftables.BRIDGE, table_name(bridge))
        self._kernel = nftables.Nftables()

    def reopen(self) -> Refusals:
        """The same with a socket of its own: a thread that read another's answers would leave it waiting for ever."""
        return Refusals(self._bridge, port_of=self._port_of, slot_of=self._slot_of)

    def close(self) -> None:
        """Let go of the socket."""
        self._kernel.close()

    def read(self, slots: Collection[int]) -> dict[int, int]:
        """Packets refused by slot since it was taken: spoofed ones by the port, all others by the policy. Raises OSError without rules."""
        found = dict.fromkeys(slots, 0)
        by_link = {self._port_of(slot).link: slot for slot in found}
        for element in self._kernel.list_elements(self._ports, "refused_by_port"):
            slot = by_link.get(element.key.rstrip(b"\x00").decode("ascii", "replace"))
            if slot is not None:
                found[slot] += element.packets
        for version in (4, 6):
            for element in self._kernel.list_elements(self._ip, f"denied{version}"):
                slot = self._slot_of(chains.read_address(element.key, version))
                if slot in found:
                    found[slot] += element.packets
        return found

    def count(self, slot: int) -> int:
        """The same of one *slot*, without a walk over all; 0 without rules. Raises OSError."""
        port = self._port_of(slot)
        keys = [(self._ports, "refused_by_port", port.link.encode("ascii").ljust(NAME_BYTES, b"\x00"))]
        keys += [(self._ip, f"denied{address.version}", address.packed) for address in port.addresses]
        elements = (self._kernel.find_element(table, name, key) for table, name, key in keys)
        return sum(element.packets for element in elements if element is not None)
