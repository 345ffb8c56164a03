"""A policy as nf_tables has it: one chain for one sandbox, and the sets of addresses that its resolver let in. Pure.

A rule by network compares what the program asked for, before any translation: a service's address is the service's, not one of its backends'.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from skerry_api.egress import Egress, EgressPort, EgressRule, Protocol, Verdict
from skerry_node.kernel import netlink, nftables
from skerry_node.network import policy
from skerry_node.network.policy import Address, Network

MAX_ADMITTED = 1024
"""Addresses, times ports, that one set of one sandbox holds at a time."""
_PROTOCOLS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_IPV4, _IPV6, _PROTO, _SERVICE = 7, 8, 12, 13
"""Types of the command nft (include/datatype.h), which shows sets by them; the kernel does not look."""
_TYPE_BITS = 6
_BYTES = {4: 4, 6: 16}


@dataclass(frozen=True, slots=True)
class Names:
    """What is called how, for one sandbox and one policy."""

    slot: int
    digest: str

    @property
    def chain(self) -> str:
        """The chain of the policy."""
        return policy.OPEN if self.digest == policy.OPEN else f"egress-{self.slot}-{self.digest}"

    def admitted(self, version: int, *, has_ports: bool) -> str:
        """The set of admitted addresses of an IP version, with or without ports."""
        return f"{'ports' if has_ports else 'names'}{version}-{self.slot}-{self.digest}"

    @property
    def sets(self) -> tuple[str, ...]:
        """All four sets."""
        return tuple(self.admitted(version, has_ports=has_ports) for version in (4, 6) for has_ports in (False, True))


def parse_chain(slot: int, chain: str) -> Names | None:
    """The names behind a chain's name, as a dump shows it; None when it is not of *slot*, or none of ours."""
    if chain == policy.OPEN:
        return Names(slot, policy.OPEN)
    kind, _, rest = chain.partition("-")
    number, _, digest = rest.partition("-")
    return Names(slot, digest) if kind == "egress" and number == str(slot) and digest else None


def render(table: nftables.Table, names: Names, wanted: Egress) -> list[netlink.Message]:
    """What makes the chain and its sets, in order."""
    made: list[netlink.Message] = [table.new_chain(names.chain)]
    has_sets = policy.needs_admission(wanted)
    if has_sets:
        for number, name in enumerate(names.sets, 1):
            made.append(_new_set(table, name, number))
    rules = [(rule, "denied") for rule in wanted.deny] + [(rule, "allowed") for rule in wanted.allow]
    for rule, chain in rules:
        made += [table.new_rule(names.chain, [*match, nftables.go(chain)]) for match in _matches(rule)]
    made.append(table.new_rule(names.chain, [nftables.jump("closed")]))
    if has_sets:
        for version in (4, 6):
            any_port, by_port = (names.admitted(version, has_ports=has_ports) for has_ports in (False, True))
            made.append(table.new_rule(names.chain, [_load_destination(version), nftables.is_in(any_port), nftables.go("allowed")]))
            made.append(table.new_rule(names.chain, [*_load_all(version), nftables.is_in(by_port), nftables.go("allowed")]))
    made.append(table.new_rule(names.chain, [nftables.go("allowed" if wanted.default is Verdict.ALLOW else "denied")]))
    return made


def render_removal(table: nftables.Table, names: Names, *, sets: Sequence[str]) -> list[netlink.Message]:
    """What removes the chain and those of its sets that are there; nothing for the open policy, whose chain all share."""
    if names.digest == policy.OPEN:
        return []
    return [table.delete_chain(names.chain), *(table.delete_set(name) for name in sets)]


def admission_keys(address: Address, ports: Sequence[EgressPort]) -> list[bytes]:
    """The keys that let *address* in: itself, or one for each port."""
    if not ports:
        return [address.packed]
    return [address.packed + _protocol(port) + _port(port) for port in ports]


def read_address(key: bytes, version: int) -> Address:
    """The address in a key."""
    packed = key[: _BYTES[version]]
    return ipaddress.IPv4Address(packed) if version == 4 else ipaddress.IPv6Address(packed)


def _matches(rule: EgressRule) -> list[list[bytes]]:
    """The comparisons of a rule by network, one list for each of its ports."""
    if rule.network is None:
        return []
    where = [_load_destination(rule.network.version), nftables.mask(rule.network.netmask.packed), nftables.equals(_base(rule.network))]
    if not rule.ports:
        return [where]
    return [
        [
            *where, nftables.load_meta(nftables.META_L4PROTO), nftables.equals(_protocol(port)[:1]),
            nftables.load_original(nftables.CT_DESTINATION_PORT), nftables.equals(_port(port)[:2]),
        ]
        for port in rule.ports
    ]  # fmt: skip


def _base(network: Network) -> bytes:
    return network.network_address.packed


def _load_destination(version: int) -> bytes:
    return nftables.load_original(nftables.CT_DESTINATION_4 if version == 4 else nftables.CT_DESTINATION_6)


def _load_all(version: int) -> list[bytes]:
    """Destination, protocol and port, one behind the other in registers of four bytes."""
    after = nftables.REGISTER + _BYTES[version] // 4
    return [
        _load_destination(version),
        nftables.load_meta(nftables.META_L4PROTO, after),
        nftables.load_original(nftables.CT_DESTINATION_PORT, after + 1),
    ]


def _new_set(table: nftables.Table, name: str, number: int) -> netlink.Message:
    version = 4 if name.startswith(("names4", "ports4")) else 6
    kind, size = (_IPV4 if version == 4 else _IPV6), _BYTES[version]
    if name.startswith("ports"):
        kind, size = (kind << _TYPE_BITS | _PROTO) << _TYPE_BITS | _SERVICE, size + 8
    return table.new_set(name, key_type=kind, key_bytes=size, size=MAX_ADMITTED, number=number)


def _protocol(port: EgressPort) -> bytes:
    """In a register of its own."""
    return bytes([_PROTOCOLS[port.protocol], 0, 0, 0])


def _port(port: EgressPort) -> bytes:
    return struct.pack(">Hxx", port.port)
