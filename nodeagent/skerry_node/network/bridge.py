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
from collections.abc import Sequence

from skerry_node.kernel import netlink

_IFINFO, _IFADDR = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 16, 17, 20, 21, 22
_RTM_SETLINK = 19
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFA_ADDRESS, _IFA_LOCAL = 1, 3, 18, 1, 1, 2
_IFLA_PROTINFO, _IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 12, 4, 33
_UP = 1
_IP_FORWARD, _IP6_CONF = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf"
_NO_DETECTION, _LINK_SCOPE = 0x02, 253
"""IFA_F_NODAD: usable at once, for nobody else can have it; RT_SCOPE_LINK."""


Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def ensure_bridge(name: str, gateways: Sequence[Interface]) -> int:
    """Have bridge *name* up with *gateways* as its addresses, the first of IPv4, and this host forwarding; returns its index. Raises OSError.

    At most one of each family. Its hardware address is fixed: left alone it changes with its ports, and every sandbox would lose its gateway for
    a while.
    """
    has_six = any(each.version == 6 for each in gateways)
    with netlink.Netlink() as rtnl:
        _ensure_link(rtnl, name)
        index = socket.if_nametoindex(name)
        for setting, value in (("accept_ra", "0"), ("disable_ipv6", "0" if has_six else "1")):
            with contextlib.suppress(*(() if has_six else (FileNotFoundError,))):  # a kernel without IPv6
                _write(f"{_IP6_CONF}/{name}/{setting}", value)
        for family in (socket.AF_INET, socket.AF_INET6) if has_six else (socket.AF_INET,):
            _ensure_address(rtnl, name, index, next(each for each in gateways if _family(each) == family))
        body = _IFINFO.pack(0, 0, index, _UP, _UP) + netlink.attribute(_IFLA_ADDRESS, b"\x02\x58" + gateways[0].packed)
        rtnl.ask(netlink.Message(_RTM_NEWLINK, 0, body, f"bring up bridge {name}"))
    _write(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "1")  # ports published on the node's loopback; see portrules
    if _read(_IP_FORWARD) != "1":
        _write(_IP_FORWARD, "1")
    if has_six and _read(f"{_IP6_CONF}/all/forwarding") != "1":
        _forward_six()
    return index


def _forward_six() -> None:
    """A host that forwards believes no router any more, unless told (ip-sysctl.rst, accept_ra): the node keeps the way out that it has."""
    for link in os.listdir(_IP6_CONF):
        if link != "all" and _read(f"{_IP6_CONF}/{link}/accept_ra") == "1":
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                _write(f"{_IP6_CONF}/{link}/accept_ra", "2")
    _write(f"{_IP6_CONF}/all/forwarding", "1")


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


def _ensure_address(rtnl: netlink.Netlink, name: str, index: int, wanted: Interface) -> None:
    """The bridge is ours alone: what it has of another address range goes. Link-local addresses are the kernel's."""
    family, has_wanted = _family(wanted), False
    for body in rtnl.dump(netlink.Message(_RTM_GETADDR, 0, _IFADDR.pack(family, 0, 0, 0, 0), "list addresses")):
        _, prefix, _, scope, owner = _IFADDR.unpack_from(body)
        if owner != index or scope == _LINK_SCOPE:
            continue
        attributes = netlink.parse_attributes(body, _IFADDR.size)
        found = ipaddress.ip_interface((attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS], prefix))
        if found == wanted:
            has_wanted = True
        else:
            rtnl.ask(_address_message(_RTM_DELADDR, 0, found, index=index, what=f"remove {found} from bridge {name}"))
    if not has_wanted:
        flags = netlink.CREATE | netlink.REPLACE
        rtnl.ask(_address_message(_RTM_NEWADDR, flags, wanted, index=index, what=f"give {wanted} to bridge {name}"))


def _address_message(kind: int, flags: int, address: Interface, *, index: int, what: str) -> netlink.Message:
    body = _IFADDR.pack(_family(address), address.network.prefixlen, _NO_DETECTION if address.version == 6 else 0, 0, index)
    body += netlink.attribute(_IFA_LOCAL, address.ip.packed) + netlink.attribute(_IFA_ADDRESS, address.ip.packed)
    return netlink.Message(kind, flags, body, what)


def _family(address: Interface) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _is_bridge(name: str) -> bool:
    return os.path.isdir(f"/sys/class/net/{name}/bridge")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
