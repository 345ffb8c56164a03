"""Which ports of the node lead to which slot: the maps of `portrules`, read once and written by this agent alone.

The kernel is the database: what stands in the maps is published, whether an agent runs or not.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable

from skerry_api.ports import HostPort, Protocol, Published
from skerry_node.kernel import nftables
from skerry_node.network import bridge, portrules

_NUMBERS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_PROTOCOLS = {number: protocol for protocol, number in _NUMBERS.items()}
_KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
_MAPS = {portrules.PLAIN_4: 4, portrules.BOUND_4: 4, portrules.PLAIN_6: 16, portrules.BOUND_6: 16}
"""With the size of an address."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Key = tuple[str, bytes]


class PortTaken(OSError):
    """The place is somebody else's: *port*, and the slot that has it, None for a program of the node."""

    def __init__(self, port: HostPort, slot: int | None) -> None:
        owner = "a program of this node" if slot is None else f"slot {slot}"
        super().__init__(errno.EADDRINUSE, f"hostPort {port} is {owner}'s")
        self.port = port
        self.slot = slot


class Ports:
    """What is published on this node. *addresses* gives the addresses of a slot: that of version 4, and where there is one of version 6."""

    def __init__(
        self, table: str, addresses: Callable[[int], tuple[Address, ...]], *, link_name: Callable[[int], str], ensure_rules: Callable[[], None]
    ) -> None:
        self._table = nftables.Table(nftables.INET, table)
        self._addresses = addresses
        self._bases = {len(address.packed): int(address) for address in addresses(0)}
        self._link_name = link_name
        self._ensure_rules = ensure_rules
        self._held: dict[int, dict[Key, bytes]] = {}
        self._owners: dict[tuple[Protocol, int], dict[HostPort, int]] = {}

    def repair(self, *, must_ensure: bool = False) -> None:
        """Look at the kernel again; rules that somebody flushed are put back, and the links of what publishes are as they must be now.

        Blocks for as long as nft does. Raises OSError, ruleset.RulesFailed.
        """
        if must_ensure:
            self._ensure_rules()
        try:
            self.load()
        except FileNotFoundError:
            self._ensure_rules()
            self.load()
        for slot in list(self._held):
            self.open_link(slot)

    def open_link(self, slot: int) -> None:
        """Have the link of a slot that publishes take part in what its ports need; nothing for any other, or where there is no link yet."""
        if slot in self._held and slot > 0 and bridge.hands_frames_to_rules():
            try:
                bridge.open_port(self._link_name(slot))
            except OSError as error:
                if error.errno not in {errno.ENODEV, errno.EINVAL}:  # gone, or gone between the two questions
                    raise

    def load(self) -> None:
        """Read what the kernel holds. Raises OSError."""
        with nftables.Nftables() as nft:
            found = {(name, each.key): each.value for name in _MAPS for each in nft.list_elements(self._table, name)}
        self._held, self._owners = {}, {}
        for key, value in found.items():
            self._remember(self._slot_of(key, value), key, value)

    def find(self, slot: int) -> frozenset[Published]:
        """What leads to *slot*, whole: in both families where there are both."""
        found: dict[Published, int] = {}
        for key, value in self._held.get(slot, {}).items():
            one = _parse(key, value)
            found[one] = found.get(one, 0) + 1
        return frozenset(one for one, count in found.items() if one.host.address or count == len(self._bases))

    def is_empty(self, slot: int) -> bool:
        """Whether nothing, not even a half, leads to *slot*."""
        return not self._held.get(slot)

    def publish(self, slot: int, wanted: frozenset[Published]) -> None:
        """Have exactly *wanted* lead to *slot*, in one transaction. Raises PortTaken, OSError."""
        for one in sorted(wanted, key=str):
            for other, owner in self._owners.get((one.host.protocol, one.host.port), {}).items():
                if owner != slot and one.host.meets(other):
                    raise PortTaken(one.host, owner)
        for one in sorted(wanted - self.find(slot), key=str):
            _require_free(one.host)
        target = dict(entry for one in wanted for address in self._addresses(slot) for entry in _entries(one, address))
        held = dict(self._held.get(slot, {}))
        gone = [key for key, value in held.items() if target.get(key) != value]
        new = {key: value for key, value in target.items() if held.get(key) != value}
        if not gone and not new:
            return
        messages = [self._table.remove(name, [nftables.element(key)]) for name, key in gone]
        messages += [self._table.add(name, [nftables.element(key, value=value)], exclusive=True) for (name, key), value in new.items()]
        with nftables.Nftables() as nft:
            try:
                nft.transact(messages)
            except (FileNotFoundError, FileExistsError):  # somebody else had their hands in our table: look again, the next try is right
                self.load()
                raise
        for key in gone:
            self._forget(slot, key)
        for key, value in new.items():
            self._remember(slot, key, value)

    def withdraw(self, slot: int) -> None:
        """Have nothing lead to *slot*; what is gone is gone. Raises OSError."""
        self.publish(slot, frozenset())

    def _remember(self, slot: int, key: Key, value: bytes) -> None:
        self._held.setdefault(slot, {})[key] = value
        host = _parse(key, value).host
        self._owners.setdefault((host.protocol, host.port), {})[host] = slot

    def _forget(self, slot: int, key: Key) -> None:
        value = self._held[slot].pop(key)
        host = _parse(key, value).host
        owners = self._owners.get((host.protocol, host.port), {})
        owners.pop(host, None)  # of two families the first to go takes it along: both go in one transaction
        if not owners:
            self._owners.pop((host.protocol, host.port), None)
        if not self._held[slot]:
            del self._held[slot]

    def _slot_of(self, key: Key, value: bytes) -> int:
        """The slot that an entry leads to, by the distance of its address from slot 0's; -1 for one of a range that is no longer ours."""
        size = _MAPS[key[0]]
        base = self._bases.get(size)
        return -1 if base is None else int.from_bytes(value[:size]) - base


def _entries(one: Published, address: Address) -> Iterable[tuple[Key, bytes]]:
    """The element that leads from *one* to *address*; none where the two are of different families."""
    host, is_four = one.host, address.version == 4
    key = bytes((_NUMBERS[host.protocol], 0, 0, 0)) + _port(host.port)
    value = address.packed + _port(one.container_port)
    if not host.address:
        yield (portrules.PLAIN_4 if is_four else portrules.PLAIN_6, key), value
        return
    bound = ipaddress.ip_address(host.address)
    if bound.version == address.version:
        yield (portrules.BOUND_4 if is_four else portrules.BOUND_6, bound.packed + key), value


def _parse(key: Key, value: bytes) -> Published:
    """What an element says, its address aside."""
    name, raw = key
    size = _MAPS[name]
    bound = str(ipaddress.ip_address(raw[:-8])) if len(raw) > 8 else ""
    protocol = _PROTOCOLS.get(raw[-8], Protocol.TCP)
    host = HostPort(protocol, int.from_bytes(raw[-4:-2]), bound)
    return Published(host, int.from_bytes(value[size : size + 2]))


def _port(number: int) -> bytes:
    """A port as a part of a concatenation."""
    return number.to_bytes(2) + b"\x00\x00"


def _require_free(port: HostPort) -> None:
    """No program of the node has that port. Raises PortTaken. A node that has not that address publishes in vain, and harms nobody."""
    for family, everything in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - asked for, not served
        if port.address and (":" in port.address) != (family == socket.AF_INET6):
            continue
        try:
            probe = socket.socket(family, _KINDS[port.protocol])
        except OSError:  # the kernel has not that family
            continue
        with probe:
            if port.protocol is Protocol.TCP:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is about to end holds nothing
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((port.address or everything, port.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortTaken(port, None) from error
