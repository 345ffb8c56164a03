"""What the rules hold of each sandbox: its pins, its policy, its epoch, its counters; changed in one transaction of netlink each.

The kernel is the database: this keeps a copy for speed, is the only writer, and reads everything anew when it starts and at each `refresh`. What a
slot has there: in the bridge's table which addresses its port may use, in the other which chain judges it. A slot without is closed.
"""

from __future__ import annotations

import errno
import ipaddress
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from skerry_api.egress import Egress, EgressPort
from skerry_node.kernel import netlink, nftables
from skerry_node.network import chains, policy
from skerry_node.network.policy import Address
from skerry_node.network.ruleset import table_name

NAME_BYTES, _MAC_BYTES = 16, 8
"""IFNAMSIZ; a hardware address in registers of four bytes."""
_MARK = struct.Struct("=I")
MIN_ADMISSION_SECONDS, MAX_ADMISSION_SECONDS = 5, 3600
"""A time to live of zero still has to let the program connect; a long one is asked for again."""


@dataclass(frozen=True, slots=True)
class Port:
    """One slot as the bridge sees it: the host's end of its link, its hardware address (`02:58:...`), its addresses."""

    slot: int
    link: str
    mac: str
    addresses: tuple[Address, ...]


@dataclass(slots=True)
class _Entry:
    """What the kernel holds of one slot. `admitted` is until when (monotonic) which address is in, for which name."""

    digest: str
    epochs: dict[Address, bytes]
    sets: tuple[str, ...] = ()
    admitted: dict[Address, tuple[str, float]] = field(default_factory=dict)


class Firewall:
    """The sandboxes' part of the rules of one bridge. *port_of* says what a slot is, *slot_of* whose an address is. Calls take well under 1 ms."""

    def __init__(self, bridge: str, *, port_of: Callable[[int], Port], slot_of: Callable[[Address], int | None]) -> None:
        self._ip = nftables.Table(nftables.INET, table_name(bridge))
        self._ports = nftables.Table(nftables.BRIDGE, table_name(bridge))
        self._port_of, self._slot_of = port_of, slot_of
        self._kernel = nftables.Nftables()
        self._entries: dict[int, _Entry] = {}
        self.refresh()

    def close(self) -> None:
        """Let go of the socket; the rules stay."""
        self._kernel.close()

    def has_tables(self) -> bool:
        """Whether the rules are there at all."""
        try:
            self._kernel.list_elements(self._ip, "epoch4")
            self._kernel.list_elements(self._ports, "pins4")
        except FileNotFoundError:
            return False
        return True

    def policy(self, slot: int) -> str | None:
        """The digest of the policy that holds for *slot*; None when it is closed."""
        entry = self._entries.get(slot)
        return entry.digest if entry is not None else None

    def slots(self) -> frozenset[int]:
        """Every slot of which the rules hold anything."""
        return frozenset(self._entries)

    def ensure(self, slot: int, wanted: Egress) -> None:
        """Have *wanted* in force for *slot* from the next packet on, flows that stand included. Raises OSError; nothing has changed then."""
        if self.policy(slot) == policy.digest(wanted):
            return
        try:
            self._replace(slot, wanted)
        except OSError:
            self.refresh()  # somebody else was at our tables
            self._replace(slot, wanted)

    def remove(self, slot: int) -> None:
        """Close *slot*, and hold nothing of it; one that is closed is fine. Raises OSError."""
        if slot not in self._entries:
            return
        try:
            self._kernel.transact(self._render_removal(slot, self._entries[slot]))
        except OSError:
            self.refresh()
            if slot in self._entries:
                self._kernel.transact(self._render_removal(slot, self._entries[slot]))
        self._entries.pop(slot, None)

    def admit(self, slot: int, name: str, addresses: Mapping[Address, int], ports: tuple[EgressPort, ...]) -> None:
        """Let *slot* reach *addresses*, that *name* stands for, on *ports* (none: on all) for so many seconds each.

        Raises OSError: ENFILE at the bound, ENOENT when its policy admits no names.
        """
        entry = self._entries.get(slot)
        if entry is None or not entry.sets:
            raise FileNotFoundError(errno.ENOENT, f"slot {slot} has no policy that admits names")
        names, now = chains.Names(slot, entry.digest), time.monotonic()
        for address, seconds in addresses.items():
            held = min(max(seconds, MIN_ADMISSION_SECONDS), MAX_ADMISSION_SECONDS)
            known = entry.admitted.get(address)
            if known is not None and known[1] >= now + held and known[0] == name:
                continue
            target = names.admitted(address.version, has_ports=bool(ports))
            keys = chains.admission_keys(address, ports)
            add = self._ip.add(target, [nftables.element(key, milliseconds=held * 1000, comment=name) for key in keys])
            try:
                if known is None or known[0] != name:
                    raise FileNotFoundError  # noqa: TRY301 - nothing to remove first
                self._kernel.transact([self._ip.remove(target, [nftables.element(key) for key in keys]), add])
            except FileNotFoundError:  # it ran out meanwhile
                self._kernel.transact([add])
            entry.admitted[address] = (name, now + held)
        if len(entry.admitted) > chains.MAX_ADMITTED:
            entry.admitted = {address: known for address, known in entry.admitted.items() if known[1] > now}

    def refresh(self) -> None:
        """Read everything from the kernel; what is not whole there is removed, so that it counts as closed. Raises OSError."""
        found: dict[int, _Entry] = {}
        broken: list[netlink.Message] = []
        for version in (4, 6):
            marks = {element.key: element.value for element in self._kernel.list_elements(self._ip, f"epoch{version}")}
            for element in self._kernel.list_elements(self._ip, f"egress{version}"):
                address = chains.read_address(element.key, version)
                slot = self._slot_of(address)
                names = chains.parse_chain(slot, element.chain) if slot is not None else None
                if slot is None or names is None or element.key not in marks:
                    broken.append(self._ip.remove(f"egress{version}", [nftables.element(element.key, chain=element.chain)]))
                    continue
                entry = found.setdefault(slot, _Entry(names.digest, {}))
                entry.epochs[address] = marks[element.key]
        self._entries = {}
        for slot, entry in found.items():
            names = chains.Names(slot, entry.digest)
            if set(entry.epochs) == set(self._port_of(slot).addresses):
                self._entries[slot] = entry
            else:
                broken += [self._egress_removal(address, names) for address in entry.epochs]
        self._kernel.transact(broken)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what is in the tables and belongs to no entry, and learn which sets and admitted addresses the others have."""
        ports = {slot: self._port_of(slot) for slot in self._entries}
        wanted: dict[tuple[nftables.Table, str], set[bytes]] = {}
        for slot, entry in self._entries.items():
            for table, name, key, _ in self._elements(ports[slot], entry.epochs):
                wanted.setdefault((table, name), set()).add(key)
        extra, missing = [], set[bytes]()
        for table, name in _element_sets(self._ip, self._ports):
            there = {element.key: element for element in self._kernel.list_elements(table, name)}
            mine = wanted.get((table, name), set())
            missing |= mine - there.keys()
            extra += [table.remove(name, [_bare(there[key])]) for key in there.keys() - mine]
        kept = {chains.Names(slot, entry.digest) for slot, entry in self._entries.items()}
        sets = self._kernel.list_sets(self._ip)
        mine_sets = {name for names in kept for name in names.sets}
        chain_names = {names.chain for names in kept}
        old = [name for name in self._kernel.list_chains(self._ip) if name.startswith("egress-") and name not in chain_names]
        extra += [self._ip.delete_chain(name) for name in old]
        extra += [self._ip.delete_set(name) for name in sets if name.startswith(_NAME_SETS) and name not in mine_sets]
        self._kernel.transact(extra)
        for slot, entry in list(self._entries.items()):
            entry.sets = tuple(name for name in chains.Names(slot, entry.digest).sets if name in sets)
            entry.admitted = dict(self._read_admitted(entry))
            if any(key in missing for _, _, key, _ in self._elements(ports[slot], entry.epochs)):
                self._heal(slot, entry)

    def _heal(self, slot: int, entry: _Entry) -> None:
        """Somebody took some of the elements away: put back what is missing."""
        self._kernel.transact([table.add(name, [value]) for table, name, _, value in self._elements(self._port_of(slot), entry.epochs)])

    def _read_admitted(self, entry: _Entry) -> Iterable[tuple[Address, tuple[str, float]]]:
        now = time.monotonic()
        for name in entry.sets:
            version = 4 if "4-" in name[:7] else 6
            for element in self._kernel.list_elements(self._ip, name):
                yield chains.read_address(element.key, version), (element.comment, now + (element.milliseconds_left or 0) / 1000)

    def _replace(self, slot: int, wanted: Egress) -> None:
        port, names, old = self._port_of(slot), chains.Names(slot, policy.digest(wanted)), self._entries.get(slot)
        epoch = _MARK.pack(secrets.randbits(31) | 1)
        epochs = dict.fromkeys(port.addresses, epoch)
        messages = chains.render(self._ip, names, wanted) if names.digest != policy.OPEN else []
        entry = _Entry(names.digest, epochs, names.sets if policy.needs_admission(wanted) else ())
        if old is None:
            messages += [table.add(name, [value]) for table, name, _, value in self._elements(port, epochs)]
        else:
            messages += self._render_epochs(old.epochs, removal=True)
            messages += [self._egress_removal(address, chains.Names(slot, old.digest)) for address in old.epochs]
            messages += self._render_epochs(epochs, removal=False)
        messages += [self._egress_addition(address, names) for address in epochs]
        if old is not None:
            messages += self._keep_admitted(names, old, entry, wanted)
            messages += chains.render_removal(self._ip, chains.Names(slot, old.digest), sets=old.sets)
        self._kernel.transact(messages)
        self._entries[slot] = entry

    def _keep_admitted(self, names: chains.Names, old: _Entry, entry: _Entry, wanted: Egress) -> list[netlink.Message]:
        """Addresses that were let in for a name stay in, for the time they have, where the new policy means the name too."""
        messages, now = [], time.monotonic()
        for address, (name, until) in old.admitted.items():
            ports = policy.opened_by(wanted, name)
            if not entry.sets or ports is None or until <= now or policy.is_denied(wanted, name):
                continue
            left = max(1, int((until - now) * 1000))
            values = [nftables.element(key, milliseconds=left, comment=name) for key in chains.admission_keys(address, ports)]
            messages.append(self._ip.add(names.admitted(address.version, has_ports=bool(ports)), values))
            entry.admitted[address] = (name, until)
        return messages

    def _render_removal(self, slot: int, entry: _Entry) -> list[netlink.Message]:
        names = chains.Names(slot, entry.digest)
        messages = [table.remove(name, [nftables.element(key)]) for table, name, key, _ in self._elements(self._port_of(slot), entry.epochs)]
        messages += [self._egress_removal(address, names) for address in entry.epochs]
        return messages + chains.render_removal(self._ip, names, sets=entry.sets)

    def _render_epochs(self, epochs: Mapping[Address, bytes], *, removal: bool) -> list[netlink.Message]:
        act = self._ip.remove if removal else self._ip.add
        return [act(name, [value]) for address, mark in epochs.items() for name, _, value in _epoch_elements(address, mark)]

    def _egress_removal(self, address: Address, names: chains.Names) -> netlink.Message:
        return self._ip.remove(f"egress{address.version}", [nftables.element(address.packed, chain=names.chain)])

    def _egress_addition(self, address: Address, names: chains.Names) -> netlink.Message:
        return self._ip.add(f"egress{address.version}", [nftables.element(address.packed, chain=names.chain)], exclusive=True)

    def _elements(self, port: Port, epochs: Mapping[Address, bytes]) -> list[tuple[nftables.Table, str, bytes, bytes]]:
        """Everything of a slot but its verdict: table, set, key, element."""
        link, mac = port.link.encode().ljust(NAME_BYTES, b"\x00"), bytes.fromhex(port.mac.replace(":", ""))
        listed = [(self._ports, "refused_by_port", link, nftables.element(link))]
        pinned = list(epochs)
        if any(address.version == 6 for address in pinned):
            pinned.append(link_local(mac))
        for address in pinned:
            key = link + mac.ljust(_MAC_BYTES, b"\x00") + address.packed
            listed.append((self._ports, f"pins{address.version}", key, nftables.element(key)))
            if address.version == 6:
                target = link + address.packed
                listed.append((self._ports, "targets6", target, nftables.element(target)))
        for address, mark in epochs.items():
            listed.append((self._ip, f"denied{address.version}", address.packed, nftables.element(address.packed)))
            listed += [(self._ip, name, key, value) for name, key, value in _epoch_elements(address, mark)]
        return listed


def link_local(mac: bytes) -> ipaddress.IPv6Address:
    """The link-local address that the kernel makes from a hardware address (RFC 4291, appendix A)."""
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def _epoch_elements(address: Address, mark: bytes) -> list[tuple[str, bytes, bytes]]:
    pair = address.packed + mark
    return [
        (f"epoch{address.version}", address.packed, nftables.element(address.packed, value=mark)),
        (f"epochs{address.version}", pair, nftables.element(pair)),
    ]


_NAME_SETS = ("names4-", "names6-", "ports4-", "ports6-")


def _element_sets(ip: nftables.Table, ports: nftables.Table) -> list[tuple[nftables.Table, str]]:
    by_version = [(ip, f"{name}{version}") for name in ("denied", "epoch", "epochs") for version in (4, 6)]
    return [(ports, name) for name in ("pins4", "pins6", "targets6", "refused_by_port")] + by_version


def _bare(element: nftables.Element) -> bytes:
    return nftables.element(element.key, value=element.value)
