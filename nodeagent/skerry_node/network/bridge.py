"""The bridge that sandboxes' links hang on. Runs in the host's network namespace; needs CAP_NET_ADMIN and a writable /proc/sys.

Layouts: rtnetlink(7), linux/if_link.h.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct

from skerry_node.kernel import netlink

_IFINFO, _IFADDR = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 16, 17, 20, 21, 22
_RTM_SETLINK = 19
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFA_ADDRESS, _IFA_LOCAL = 1, 3, 18, 1, 1, 2
_IFLA_PROTINFO, _IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 12, 4, 33
_UP = 1
_IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"


def ensure_bridge(name: str, *, network: ipaddress.IPv4Network, gateway: ipaddress.IPv4Address) -> int:
    """Have bridge *name* up with *gateway* as its one address, and this host forwarding; returns the bridge's index. Raises OSError.

    Its hardware address is fixed: left alone it changes with its ports, and every sandbox would lose its gateway for a while.
    """
    with netlink.Netlink() as rtnl:
        _ensure_link(rtnl, name)
        index = socket.if_nametoindex(name)
        for setting, value in (("accept_ra", "0"), ("disable_ipv6", "1")):
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                _write(f"/proc/sys/net/ipv6/conf/{name}/{setting}", value)
        _ensure_address(rtnl, name, index, ipaddress.IPv4Interface((gateway, network.prefixlen)))
        body = _IFINFO.pack(0, 0, index, _UP, _UP) + netlink.attribute(_IFLA_ADDRESS, b"\x02\x58" + gateway.packed)
        rtnl.ask(netlink.Message(_RTM_NEWLINK, 0, body, f"bring up bridge {name}"))
    _write(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "1")  # ports published on the node's loopback; see portrules
    with open(_IP_FORWARD, encoding="ascii") as file:
        is_forwarding = file.read().strip() == "1"
    if not is_forwarding:
        _write(_IP_FORWARD, "1")
    return index


def remove_bridge(name: str) -> None:
    """Remove bridge *name*; one that is gone is fine, and a link of that name which is no bridge is not ours. Raises OSError."""
    if not _is_bridge(name):
        return
    with netlink.Netlink() as rtnl:
        body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, name)
        try:
            rtnl.ask(netlink.Message(_RTM_DELLINK, 0, body, f"remove bridge {name}"))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def open_port(name: str) -> None:
    """Let the bridge's port *name* exchange frames with other ports, and with itself: needed where a published port meets br_netfilter.

    What passes then is for the nft table of `portrules` to say. Raises OSError: ENODEV when there is no such link.
    """
    with netlink.Netlink() as rtnl:
        body = _IFINFO.pack(socket.AF_BRIDGE, 0, _index(name), 0, 0)
        flags = netlink.attribute(_IFLA_BRPORT_ISOLATED, b"\x00") + netlink.attribute(_IFLA_BRPORT_MODE, b"\x01")
        rtnl.ask(netlink.Message(_RTM_SETLINK, 0, body + netlink.nested(_IFLA_PROTINFO, flags), f"open port {name}"))


def hands_frames_to_rules() -> bool:
    """Whether br_netfilter is there and on: its switch is the whole machine's."""
    with contextlib.suppress(FileNotFoundError), open("/proc/sys/net/bridge/bridge-nf-call-iptables", encoding="ascii") as file:
        return file.read().strip() != "0"
    return False


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # it comes without a number
        raise OSError(errno.ENODEV, f"link {name}: {os.strerror(errno.ENODEV)}") from error


def _ensure_link(rtnl: netlink.Netlink, name: str) -> None:
    body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.text(_IFLA_IFNAME, name)
    body += netlink.nested(_IFLA_LINKINFO, netlink.text(_IFLA_INFO_KIND, "bridge"))
    try:
        rtnl.ask(netlink.Message(_RTM_NEWLINK, netlink.CREATE | netlink.EXCL, body, f"create bridge {name}"))
    except FileExistsError as error:
        if not _is_bridge(name):
            problem = f"link {name} exists and is no bridge; remove it, or start the agent with another --bridge"
            raise FileExistsError(errno.EEXIST, problem) from error


def _ensure_address(rtnl: netlink.Netlink, name: str, index: int, wanted: ipaddress.IPv4Interface) -> None:
    """The bridge is ours alone: what it has of another address range goes."""
    has_wanted = False
    for body in rtnl.dump(netlink.Message(_RTM_GETADDR, 0, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0), "list addresses")):
        _, prefix, _, _, owner = _IFADDR.unpack_from(body)
        if owner != index:
            continue
        local = netlink.parse_attributes(body, _IFADDR.size)[_IFA_LOCAL]
        found = ipaddress.IPv4Interface((local, prefix))
        if found == wanted:
            has_wanted = True
        else:
            rtnl.ask(_address_message(_RTM_DELADDR, 0, found, index=index, what=f"remove {found} from bridge {name}"))
    if not has_wanted:
        flags = netlink.CREATE | netlink.REPLACE
        rtnl.ask(_address_message(_RTM_NEWADDR, flags, wanted, index=index, what=f"give {wanted} to bridge {name}"))


def _address_message(kind: int, flags: int, address: ipaddress.IPv4Interface, *, index: int, what: str) -> netlink.Message:
    body = _IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    body += netlink.attribute(_IFA_LOCAL, address.ip.packed) + netlink.attribute(_IFA_ADDRESS, address.ip.packed)
    return netlink.Message(kind, flags, body, what)


def _is_bridge(name: str) -> bool:
    return os.path.isdir(f"/sys/class/net/{name}/bridge")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
