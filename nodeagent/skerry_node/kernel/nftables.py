"""nf_tables by netlink: changes that the kernel takes as a whole or not at all, expressions of rules, and dumps of sets.

Layouts: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h. Numbers of nf_tables are in network byte order; what a set or a comparison
holds is in the order in which a packet has it. Errors are OSError with the kernel's number and what was asked.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skerry_node.kernel import netlink

INET, BRIDGE = 1, 7
"""NFPROTO_*."""
NETFILTER = 12
"""NETLINK_NETFILTER."""
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
NEW_CHAIN, DELETE_CHAIN, NEW_RULE, NEW_SET, DELETE_SET, NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 3, 5, 6, 9, 11, 12, 13, 14
_GET_SET = 10
_FAMILY = struct.Struct(">BBH")
_BIG, _BIG64 = struct.Struct(">I"), struct.Struct(">Q")
_SO_SNDBUFFORCE, _SEND_BYTES = 32, 4 << 20
_PACKETS_HEAD = struct.Struct("=HH")
_PACKETS = _PACKETS_HEAD.pack(12, 2)
"""How NFTA_COUNTER_PACKETS begins: its length and its type."""
_SEQUENCE = struct.Struct("=I")
_ERROR, _DONE, _DUMP_INTERRUPTED = 2, 3, 0x10
_ATTEMPTS = 8

ACCEPT, GOTO = 1, -4
VERDICT_REGISTER, REGISTER = 0, 8
"""NFT_REG_VERDICT; NFT_REG32_00, the first of sixteen registers of four bytes."""
META_L4PROTO, CT_DESTINATION_PORT, CT_DESTINATION_4, CT_DESTINATION_6 = 16, 12, 20, 22
_ORIGINAL = 0
TIMEOUT_FLAG = 0x10


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its family and its name. What is asked of it is made here and done by `Nftables.transact`."""

    family: int
    name: str

    def change(self, kind: int, *attributes: bytes, flags: int = 0, what: str) -> netlink.Message:
        """A change of this table."""
        body = _FAMILY.pack(self.family, 0, 0) + netlink.text(1, self.name) + b"".join(attributes)
        return netlink.Message(_SUBSYSTEM | kind, flags, body, f"{what} of nft table {self.name}")

    def new_chain(self, name: str) -> netlink.Message:
        """A chain that others go to."""
        return self.change(NEW_CHAIN, netlink.text(3, name), flags=netlink.CREATE | netlink.EXCL, what=f"new chain {name}")

    def delete_chain(self, name: str) -> netlink.Message:
        """A chain and its rules."""
        return self.change(DELETE_CHAIN, netlink.text(3, name), what=f"removal of chain {name}")

    def new_rule(self, chain: str, expressions: Sequence[bytes]) -> netlink.Message:
        """A rule at the end of *chain*."""
        listed = netlink.nested(4, *(netlink.nested(1, each) for each in expressions))
        return self.change(NEW_RULE, netlink.text(2, chain), listed, flags=netlink.CREATE | 0x800, what=f"new rule in chain {chain}")

    def new_set(self, name: str, *, key_type: int, key_bytes: int, size: int, number: int) -> netlink.Message:
        """A hash of keys with a time to live each. *number* tells the sets of one transaction apart."""
        attributes = [
            netlink.text(2, name), _number(3, TIMEOUT_FLAG), _number(4, key_type), _number(5, key_bytes), _number(10, number),
            netlink.nested(9, _number(1, size)),
        ]  # fmt: skip
        return self.change(NEW_SET, *attributes, flags=netlink.CREATE | netlink.EXCL, what=f"new set {name}")

    def delete_set(self, name: str) -> netlink.Message:
        """A set and what is in it."""
        return self.change(DELETE_SET, netlink.text(2, name), what=f"removal of set {name}")

    def add(self, name: str, elements: Sequence[bytes], *, exclusive: bool = False) -> netlink.Message:
        """Put *elements* into a set; one that is there stays, or is an error when *exclusive*."""
        flags = netlink.CREATE | (netlink.EXCL if exclusive else 0)
        return self.change(NEW_ELEMENT, netlink.text(2, name), _elements(elements), flags=flags, what=f"elements for set {name}")

    def remove(self, name: str, elements: Sequence[bytes]) -> netlink.Message:
        """Take *elements* out; each must be there."""
        return self.change(DELETE_ELEMENT, netlink.text(2, name), _elements(elements), what=f"removal of elements from set {name}")


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set, as a dump shows it: its data, the chain of its verdict, packets counted, milliseconds left, its comment."""

    key: bytes
    value: bytes = b""
    chain: str = ""
    packets: int = 0
    milliseconds_left: int | None = None
    comment: str = ""


class Nftables(netlink.Netlink):
    """One NETLINK_NETFILTER socket. Needs CAP_NET_ADMIN in the user namespace of its network namespace."""

    def __init__(self) -> None:
        super().__init__(NETFILTER)
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BYTES)

    def transact(self, messages: Sequence[netlink.Message]) -> None:
        """All of *messages* at once, or none of them. Raises OSError for the first that was refused.

        Only the last one asks for an answer; refusals are answered always, and before it (nfnetlink_rcv_batch).
        """
        if not messages:
            return
        what: dict[int, str] = {}
        batch = bytearray()
        first = sequence = self._next()
        batch += netlink.pack(netlink.Message(_BATCH_BEGIN, 0, _FAMILY.pack(0, 0, 10), ""), sequence, flags=0)
        what[sequence] = f"transaction of {len(messages)} changes, the first {messages[0].what}"
        for message in messages:
            sequence = self._next()
            what[sequence] = message.what
            batch += netlink.pack(message, sequence, flags=netlink.ACK if message is messages[-1] else 0)
        batch += netlink.pack(netlink.Message(_BATCH_END, 0, _FAMILY.pack(0, 0, 10), ""), self._next(), flags=0)
        self._socket.send(batch)
        failure: OSError | None = None
        while True:
            for kind, flags, answered, body in self._receive():
                if kind != _ERROR or answered not in what:
                    continue
                number = netlink.error_number(body)
                if number and failure is None:
                    failure = OSError(number, f"{what[answered]}: {netlink.explain(number, flags, body)}")
                if answered == sequence or (number and answered == first and number in {errno.EPERM, errno.EOPNOTSUPP}):
                    if failure is not None:
                        raise failure
                    return

    def list_elements(self, table: Table, name: str) -> list[Element]:
        """What is in a set. Raises FileNotFoundError when there is no such set."""
        body = _FAMILY.pack(table.family, 0, 0) + netlink.text(1, table.name) + netlink.text(2, name)
        found = self._dump_whole(netlink.Message(_SUBSYSTEM | GET_ELEMENT, 0, body, f"list of set {name} of nft table {table.name}"))
        return [element for part in found for element in _parse_elements(part)]

    def count_packets(self, table: Table, name: str) -> dict[bytes, int]:
        """Packets by key, of a set whose elements have counters. Raises FileNotFoundError when there is no such set.

        The elements of a set are laid out alike: where key and counter are is found in one, and read in all, in a tenth of the time.
        """
        body = _FAMILY.pack(table.family, 0, 0) + netlink.text(1, table.name) + netlink.text(2, name)
        found: dict[bytes, int] = {}
        for part in self._dump_whole(netlink.Message(_SUBSYSTEM | GET_ELEMENT, 0, body, f"list of set {name} of nft table {table.name}")):
            size, key, at = -1, slice(0), 0
            for raw in netlink.list_attributes(netlink.parse_attributes(part, _FAMILY.size).get(3, b"")):
                if len(raw) != size or raw[at - _PACKETS_HEAD.size : at] != _PACKETS:
                    places = netlink.find_attribute(raw, 1, 1), netlink.find_attribute(raw, 7, 2, 2)
                    if places[0] is None or places[1] is None:
                        continue
                    size, key, at = len(raw), slice(*places[0]), places[1][0]
                found[raw[key]] = _BIG64.unpack_from(raw, at)[0]
        return found

    def find_element(self, table: Table, name: str, key: bytes) -> Element | None:
        """The element with *key*, without a walk over the set; None when there is none, or no such set."""
        body = _FAMILY.pack(table.family, 0, 0) + netlink.text(1, table.name) + netlink.text(2, name) + _elements([element(key)])
        what = f"look into set {name} of nft table {table.name}"
        sequence = self._next()
        self._socket.send(netlink.pack(netlink.Message(_SUBSYSTEM | GET_ELEMENT, 0, body, what), sequence, flags=netlink.ACK))
        try:
            found, _ = self._collect(sequence, what)
        except FileNotFoundError:
            return None
        return next((each for part in found for each in _parse_elements(part)), None)

    def list_sets(self, table: Table) -> list[str]:
        """The names of the table's sets."""
        body = _FAMILY.pack(table.family, 0, 0) + netlink.text(1, table.name)
        found = self._dump_whole(netlink.Message(_SUBSYSTEM | _GET_SET, 0, body, f"list of sets of nft table {table.name}"))
        return [_text(netlink.parse_attributes(part, _FAMILY.size).get(2, b"")) for part in found]

    def list_chains(self, table: Table) -> list[str]:
        """The names of the table's chains."""
        body = _FAMILY.pack(table.family, 0, 0)
        found = self._dump_whole(netlink.Message(_SUBSYSTEM | 4, 0, body, f"list of chains of nft table {table.name}"))
        parsed = [netlink.parse_attributes(part, _FAMILY.size) for part in found]
        return [_text(each.get(3, b"")) for each in parsed if _text(each.get(1, b"")) == table.name]

    def _dump_whole(self, message: netlink.Message) -> list[bytes]:
        """A dump that no other transaction cut in two (NLM_F_DUMP_INTR); after some attempts, what there is."""
        for _ in range(_ATTEMPTS):
            sequence = self._next()
            self._socket.send(netlink.pack(message, sequence, flags=netlink.DUMP))
            found, is_whole = self._collect(sequence, message.what)
            if is_whole:
                break
        return found

    def _collect(self, sequence: int, what: str) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        is_whole = True
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != sequence:
                    continue
                is_whole = is_whole and not flags & _DUMP_INTERRUPTED
                if kind == _DONE:
                    return found, is_whole
                if kind == _ERROR:
                    number = netlink.error_number(body)
                    if number == 0:  # an answer that was asked for, behind all else
                        return found, is_whole
                    raise OSError(number, f"{what}: {netlink.explain(number, flags, body)}")
                found.append(body)


def element(key: bytes, *, value: bytes = b"", chain: str = "", milliseconds: int | None = None, comment: str = "") -> bytes:
    """An element of a set: *key*, and where the set is a map *value* or the *chain* to go to."""
    attributes = [netlink.nested(1, netlink.attribute(1, key))]
    if value:
        attributes.append(netlink.nested(2, netlink.attribute(1, value)))
    if chain:
        attributes.append(netlink.nested(2, _verdict(GOTO, chain)))
    if milliseconds is not None:
        attributes.append(netlink.attribute(4, _BIG64.pack(milliseconds)))
    if comment:
        text = comment.encode("ascii")[:120] + b"\x00"
        attributes.append(netlink.attribute(6, bytes([0, len(text)]) + text))  # as nft writes comments: type, length, text
    return b"".join(attributes)


def load_meta(key: int, register: int = REGISTER) -> bytes:
    """Something about the packet into a register."""
    return _expression("meta", _number(1, register), _number(2, key))


def load_original(key: int, register: int = REGISTER) -> bytes:
    """What the flow's first packet had, before any translation."""
    return _expression("ct", _number(1, register), _number(2, key), netlink.attribute(3, bytes([_ORIGINAL])))


def mask(value: bytes) -> bytes:
    """Keep the bits of *value* in the register."""
    zero = netlink.nested(5, netlink.attribute(1, bytes(len(value))))
    return _expression(
        "bitwise", _number(1, REGISTER), _number(2, REGISTER), _number(3, len(value)), netlink.nested(4, netlink.attribute(1, value)), zero
    )


def equals(value: bytes) -> bytes:
    """Go on when the register holds *value*."""
    return _expression("cmp", _number(1, REGISTER), _number(2, 0), netlink.nested(3, netlink.attribute(1, value)))


def is_in(name: str) -> bytes:
    """Go on when the registers, from the first on, hold a key of the set."""
    return _expression("lookup", netlink.text(1, name), _number(2, REGISTER))


def go(chain: str) -> bytes:
    """Go to *chain*, and never come back."""
    return _expression("immediate", _number(1, VERDICT_REGISTER), netlink.nested(2, _verdict(GOTO, chain)))


def jump(chain: str) -> bytes:
    """Go to *chain*, and come back from its end."""
    return _expression("immediate", _number(1, VERDICT_REGISTER), netlink.nested(2, _verdict(-3, chain)))


def _expression(name: str, *attributes: bytes) -> bytes:
    return netlink.text(1, name) + netlink.nested(2, *attributes)


def _verdict(code: int, chain: str) -> bytes:
    return netlink.nested(2, netlink.attribute(1, struct.pack(">i", code)), netlink.text(2, chain))


def _number(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, _BIG.pack(value))


def _elements(elements: Sequence[bytes]) -> bytes:
    return netlink.nested(3, *(netlink.nested(1, each) for each in elements))


def _parse_elements(part: bytes) -> Iterator[Element]:
    listed = netlink.parse_attributes(part, _FAMILY.size).get(3, b"")
    for raw in netlink.list_attributes(listed):
        found = netlink.parse_attributes(raw)
        data = netlink.parse_attributes(found.get(2, b""))
        verdict = netlink.parse_attributes(data.get(2, b""))
        left = found.get(5)
        comment = found.get(6, b"")
        yield Element(
            key=netlink.parse_attributes(found.get(1, b"")).get(1, b""),
            value=data.get(1, b""),
            chain=_text(verdict.get(2, b"")),
            packets=_count(found),
            milliseconds_left=_BIG64.unpack(left)[0] if left is not None else None,
            comment=_text(comment[2:]) if comment[:1] == b"\x00" else "",
        )


def _count(found: dict[int, bytes]) -> int:
    """Packets of the element's counter, where it has one."""
    expression = found.get(7)
    if expression is None:
        return 0
    parsed = netlink.parse_attributes(expression)
    if _text(parsed.get(1, b"")) != "counter":
        return 0
    packets = netlink.parse_attributes(parsed.get(2, b"")).get(2)
    return _BIG64.unpack(packets)[0] if packets is not None else 0


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\x00").decode("ascii", "replace")
