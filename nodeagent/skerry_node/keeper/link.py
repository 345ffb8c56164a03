"""A sandbox's link: one message makes the veth, gives its peer away, sets the master and brings it up. Standard library only.

Layouts: rtnetlink(7), linux/if_link.h, linux/veth.h. Errors are OSError with the kernel's number and what was asked. A veth is never deleted:
that waits 34 ms under the kernel's one lock, and it goes with the sandbox's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from skerry_node.keeper import wire
from skerry_node.kernel import netlink

_IFINFO, _IFADDR, _RTMSG = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")
_RTM_NEWLINK, _RTM_SETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 19, 20, 24
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 10, 12, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_BRPORT_ISOLATED = 33
_IFA_ADDRESS, _IFA_LOCAL, _RTA_OIF, _RTA_GATEWAY = 1, 2, 4, 5
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 3, 0, 1
_UP = 1
_NO_DETECTION = 0x02
"""IFA_F_NODAD (linux/if_addr.h): the address is ours to give, and is there at once."""
_LOOPBACK_INDEX = 1
"""The loopback of every network namespace has index 1."""
INNER_NAME = "eth0"


class Rtnl(netlink.Netlink):
    """One NETLINK_ROUTE socket, of the network namespace in which it was opened."""

    def create_veth(self, name: str, *, peer_netns_fd: int, master_index: int, mac: str, isolated: bool = True) -> None:
        """Make the pair *name* and eth0: the one here in the bridge *master_index* and up, the other, with *mac*, in the given namespace.

        An isolated port talks to the bridge itself and to no other isolated port. Raises OSError: EEXIST when the name is taken; when only
        the isolation fails, the pair stays, and goes with the namespace.
        """
        peer = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, INNER_NAME)
        peer += netlink.attribute(_IFLA_ADDRESS, parse_mac(mac)) + netlink.number(_IFLA_NET_NS_FD, peer_netns_fd)
        info = netlink.text(_IFLA_INFO_KIND, "veth")
        info += netlink.nested(_IFLA_INFO_DATA, netlink.attribute(_VETH_INFO_PEER, peer))
        body = _IFINFO.pack(0, 0, 0, _UP, _UP) + netlink.text(_IFLA_IFNAME, name) + netlink.number(_IFLA_MASTER, master_index)
        body += netlink.nested(_IFLA_LINKINFO, info)
        self.ask(netlink.Message(_RTM_NEWLINK, netlink.CREATE | netlink.EXCL, body, f"create link {name}"))
        if isolated:
            self._isolate(name)

    def configure(self, link: wire.Link | None) -> None:
        """Loopback up and, with a link, address, link up and default route, in one message to the kernel."""
        messages = [_bring_up(_LOOPBACK_INDEX, "lo")]
        if link is not None:
            index = link_index(INNER_NAME)
            messages.append(_new_address(link.address, link.prefix, index))
            messages.append(_bring_up(index, INNER_NAME))
            messages.append(_default_route(link.gateway, index))
            if link.address6:  # behind the link's coming up, which makes the way to the gateway
                messages.append(_new_address(link.address6, link.prefix6, index))
                messages.append(_default_route(link.gateway6, index))
        self.ask(*messages)

    def _isolate(self, name: str) -> None:
        """Only RTM_SETLINK of the bridge family sets a port's flags (net/bridge/br_netlink.c)."""
        body = _IFINFO.pack(socket.AF_BRIDGE, 0, link_index(name), 0, 0)
        body += netlink.nested(_IFLA_PROTINFO, netlink.attribute(_IFLA_BRPORT_ISOLATED, b"\x01"))
        self.ask(netlink.Message(_RTM_SETLINK, 0, body, f"isolate link {name}"))


def configure_inside(link: wire.Link | None) -> None:
    """Configure the caller's own network namespace. Run by the child, which is root there."""
    with Rtnl() as rtnl:
        rtnl.configure(link)


def link_index(name: str) -> int:
    """The index of link *name* in the caller's network namespace. Raises OSError with ENODEV."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # it comes without a number
        raise OSError(errno.ENODEV, f"link {name}: {os.strerror(errno.ENODEV)}") from error


def parse_mac(mac: str) -> bytes:
    """The six bytes of `02:58:...`. Raises ValueError."""
    return bytes.fromhex(mac.replace(":", ""))


def _bring_up(index: int, name: str) -> netlink.Message:
    return netlink.Message(_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, _UP, _UP), f"bring up {name}")


def _new_address(address: str, prefix: int, index: int) -> netlink.Message:
    family, raw = _parse_address(address)
    body = _IFADDR.pack(family, prefix, _NO_DETECTION if family == socket.AF_INET6 else 0, 0, index)
    body += netlink.attribute(_IFA_LOCAL, raw) + netlink.attribute(_IFA_ADDRESS, raw)
    return netlink.Message(_RTM_NEWADDR, netlink.CREATE | netlink.EXCL, body, f"address {address}/{prefix}")


def _parse_address(text: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return family, socket.inet_pton(family, text)


def _default_route(gateway: str, index: int) -> netlink.Message:
    family, raw = _parse_address(gateway)
    body = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    body += netlink.attribute(_RTA_GATEWAY, raw) + netlink.number(_RTA_OIF, index)
    return netlink.Message(_RTM_NEWROUTE, netlink.CREATE | netlink.EXCL, body, f"default route by {gateway}")
