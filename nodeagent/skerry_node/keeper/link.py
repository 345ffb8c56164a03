"""Links by raw rtnetlink: one message makes a veth, gives its peer away, sets the master and brings it up. Standard library only.

Layouts: rtnetlink(7), linux/if_link.h, linux/veth.h. Errors are OSError with the kernel's number and what was asked.
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType
from typing import Self

from skerry_node.keeper import wire

_HEADER, _IFINFO, _IFADDR, _RTMSG = (
    struct.Struct("=IHHII"),
    struct.Struct("=BxHiII"),
    struct.Struct("=BBBBI"),
    struct.Struct("=BBBBBBBBI"),
)
_ATTRIBUTE = struct.Struct("=HH")
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 18, 20, 24
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_ERROR = 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 10, 12, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_BRPORT_ISOLATED, _NESTED = 33, 0x8000
_IFA_ADDRESS, _IFA_LOCAL, _RTA_OIF, _RTA_GATEWAY = 1, 2, 4, 5
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 3, 0, 1
_UP = 1
_LOOPBACK_INDEX = 1
"""The loopback of every network namespace has index 1."""
INNER_NAME = "eth0"


class Rtnl:
    """One NETLINK_ROUTE socket, of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def create_veth(self, name: str, *, peer_netns_fd: int, master_index: int, mac: str, isolated: bool = True) -> None:
        """Make the pair *name* and eth0: the one here in the bridge *master_index* and up, the other in the given namespace.

        An isolated port talks to the bridge itself and to no other isolated port.
        """
        peer = _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, INNER_NAME)
        peer += _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))) + _number(_IFLA_NET_NS_FD, peer_netns_fd)
        info = _text(_IFLA_INFO_KIND, "veth") + _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer))
        body = _IFINFO.pack(0, 0, 0, _UP, _UP) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, master_index)
        body += _attribute(_IFLA_LINKINFO, info)
        self._ask([(_RTM_NEWLINK, _CREATE | _EXCL, body)], f"create link {name}")
        if isolated:
            port = _attribute(_IFLA_PROTINFO | _NESTED, _attribute(_IFLA_BRPORT_ISOLATED, b"\x01"))
            body = _IFINFO.pack(socket.AF_BRIDGE, 0, socket.if_nametoindex(name), 0, 0) + port
            self._ask([(_RTM_NEWLINK, 0, body)], f"isolate link {name}")

    def _ask(self, messages: list[tuple[int, int, bytes]], what: str) -> None:
        """Send all in one go and read one acknowledgement for each; the first refusal is raised."""
        first = self._sequence + 1
        batch = bytearray()
        for kind, flags, body in messages:
            self._sequence += 1
            batch += _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST | _ACK, self._sequence, 0) + body
        self._socket.send(batch)
        waiting = set(range(first, self._sequence + 1))
        failure = 0
        while waiting:
            data, offset = self._socket.recv(1 << 16), 0
            while offset < len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
                if kind == _ERROR and sequence in waiting:
                    waiting.discard(sequence)
                    failure = failure or -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
                offset += (length + 3) & ~3
        if failure:
            raise OSError(failure, f"{what}: {os.strerror(failure)}")

    def configure(self, link: wire.Link | None) -> None:
        """Loopback up and, with a link, address, link up and default route, in one message to the kernel."""
        messages = [(_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, _LOOPBACK_INDEX, _UP, _UP))]
        if link is not None:
            index = socket.if_nametoindex(INNER_NAME)
            address = socket.inet_aton(link.address)
            body = _IFADDR.pack(socket.AF_INET, link.prefix, 0, 0, index)
            body += _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
            messages.append((_RTM_NEWADDR, _CREATE | _EXCL, body))
            messages.append((_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, _UP, _UP)))
            route = _RTMSG.pack(socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
            route += _attribute(_RTA_GATEWAY, socket.inet_aton(link.gateway)) + _number(_RTA_OIF, index)
            messages.append((_RTM_NEWROUTE, _CREATE | _EXCL, route))
        self._ask(messages, "configure the network inside")


def configure_inside(link: wire.Link | None) -> None:
    """Configure the caller's own network namespace. Run by the child, which is root there."""
    with Rtnl() as rtnl:
        rtnl.configure(link)


def _attribute(kind: int, body: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(body)
    return _ATTRIBUTE.pack(length, kind) + body + bytes(-length % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode("ascii") + b"\x00")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))
