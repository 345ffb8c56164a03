"""Packets for sandboxes that sleep: nft logs the first of them to a netlink group, and whoever listens hears of the link.

A table of its own in the bridge family, so that packets from the node, from outside and from neighbours are all seen where they leave the bridge
for a link; its set holds the links of sleeping sandboxes only, and is empty where nobody sleeps. Unicast only, and no neighbour discovery: what
the kernel asks by itself wakes nobody. The packet goes on to the sandbox, whose kernel side is not frozen: it waits in a socket.
(linux/netfilter/nfnetlink_log.h)
"""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Collection, Iterator

_NFNL_SUBSYS_ULOG, _MSG_PACKET, _MSG_CONFIG = 4, 0, 1
_ATTR_OUTDEV, _ATTR_PHYSOUTDEV = 5, 7
_NETLINK_NETFILTER = 12
_CFG_CMD, _CFG_MODE, _CFG_THRESHOLD = 1, 2, 5
_CMD_BIND = 1
_COPY_META = 1
_NLM_F_REQUEST, _NLM_F_ACK, _NLMSG_ERROR = 1, 4, 2
_HEADER, _GENERIC, _ATTR = struct.Struct("=IHHII"), struct.Struct("!BBH"), struct.Struct("=HH")
_BUFFER_BYTES = 65_536


class KnocksUnavailable(OSError):
    """Packets are not told of here; the message says what is lacking."""


def render_rules(bridge: str, *, group: int) -> str:
    """The transaction that puts the table in place of whatever was there, with nobody asleep."""
    table = table_name(bridge)
    return f"""
table bridge {table} {{}}
delete table bridge {table}
table bridge {table} {{
    set asleep {{
        type ifname;
    }}
    chain knocks {{
        type filter hook postrouting priority 0; policy accept;
        oifname != @asleep accept
        ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert }} accept
        meta protocol {{ ip, ip6 }} limit rate 200/second burst 200 packets log group {group}
    }}
}}
"""


def render_sleepers(bridge: str, links: Collection[str]) -> str:
    """The transaction after which exactly *links* are those of sandboxes that sleep."""
    table = table_name(bridge)
    names = ", ".join(f'"{name}"' for name in sorted(links))
    return f"flush set bridge {table} asleep\n" + (f"add element bridge {table} asleep {{ {names} }}\n" if names else "")


def load(script: str) -> None:
    """Have nft do *script*. Raises KnocksUnavailable."""
    try:
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise KnocksUnavailable("the command nft is missing; install the package nftables") from error
    except subprocess.CalledProcessError as error:
        raise KnocksUnavailable(f"nft refused the rules for sleepers: {error.stderr.strip()}") from error


def remove(bridge: str) -> None:
    """Remove the table; one that is gone is fine. Raises KnocksUnavailable."""
    table = table_name(bridge)
    load(f"table bridge {table} {{}}\ndelete table bridge {table}\n")


def table_name(bridge: str) -> str:
    """The table of *bridge*."""
    return f"skerry-wake-{bridge}"


def listen(group: int) -> socket.socket:
    """A socket that hears of packets logged to *group*, without blocking. Raises KnocksUnavailable."""
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        listener.bind((0, 0))
        _configure(listener, group, _CFG_CMD, struct.pack("=B", _CMD_BIND))
        _configure(listener, group, _CFG_MODE, struct.pack("!IBB", 0, _COPY_META, 0))
        _configure(listener, group, _CFG_THRESHOLD, struct.pack("!I", 1))  # at once: the kernel would gather a hundred, or for a second
        listener.settimeout(0.0)
    except OSError as error:
        listener.close()
        raise KnocksUnavailable(f"the kernel logs no packets to group {group}: {error.strerror}") from error
    return listener


def receive(listener: socket.socket) -> frozenset[int]:
    """Indices of the links that packets are waiting for; empty when there was nothing, or when some were lost."""
    try:
        data = listener.recv(_BUFFER_BYTES)
    except (BlockingIOError, InterruptedError):
        return frozenset()
    return frozenset(parse(data))


def parse(data: bytes) -> Iterator[int]:
    """The index of the link that each packet of *data*, netlink messages, left by; a bridge's own where nothing nearer is said."""
    place = 0
    while place + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, place)
        if length < _HEADER.size:
            return
        if kind == _NFNL_SUBSYS_ULOG << 8 | _MSG_PACKET:
            attributes = dict(_attributes(data[place + _HEADER.size + _GENERIC.size : place + length]))
            index = attributes.get(_ATTR_PHYSOUTDEV) or attributes.get(_ATTR_OUTDEV)
            if index is not None and len(index) == 4:
                yield int.from_bytes(index, "big")
        place += length + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _ATTR.size <= len(data):
        length, kind = _ATTR.unpack_from(data, place)
        if length < _ATTR.size:
            return
        yield kind & 0x3FFF, data[place + _ATTR.size : place + length]
        place += length + 3 & ~3


def _configure(listener: socket.socket, group: int, kind: int, value: bytes) -> None:
    """One request and the kernel's answer to it. Raises OSError."""
    attribute = _ATTR.pack(_ATTR.size + len(value), kind) + value + bytes(-len(value) % 4)
    body = _GENERIC.pack(socket.AF_UNSPEC, 0, group) + attribute
    listener.send(_HEADER.pack(_HEADER.size + len(body), _NFNL_SUBSYS_ULOG << 8 | _MSG_CONFIG, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0) + body)
    answer = listener.recv(_BUFFER_BYTES)
    (_, answer_kind, _, _, _), (code,) = _HEADER.unpack_from(answer), struct.unpack_from("=i", answer, _HEADER.size)
    if answer_kind == _NLMSG_ERROR and code:
        raise OSError(-code, "the kernel refuses")
