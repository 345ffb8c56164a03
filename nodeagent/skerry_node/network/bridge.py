"""The bridge that sandboxes' links hang on. Runs in the host's network namespace; needs CAP_NET_ADMIN."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"
_EEXIST = 17


def ensure_bridge(name: str, *, network: ipaddress.IPv4Network, gateway: ipaddress.IPv4Address) -> int:
    """Have bridge *name* up with *gateway* on it; returns its index. Raises OSError."""
    with IPRoute() as route:
        try:
            route.link("add", ifname=name, kind="bridge")
        except NetlinkError as error:
            if error.code != _EEXIST:
                raise OSError(error.code, f"create bridge {name}: {error}") from error
        index = socket.if_nametoindex(name)
        _write(f"/proc/sys/net/ipv6/conf/{name}/accept_ra", "0")
        _write(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
        try:
            route.addr("add", index=index, address=str(gateway), prefixlen=network.prefixlen)
        except NetlinkError as error:
            if error.code != _EEXIST:
                raise OSError(error.code, f"address of bridge {name}: {error}") from error
        route.link("set", index=index, state="up")
    with open(_IP_FORWARD, encoding="ascii") as file:
        is_forwarding = file.read().strip() == "1"
    if not is_forwarding:
        _write(_IP_FORWARD, "1")
    return index


def remove_bridge(name: str) -> None:
    """Remove bridge *name*; one that is gone is fine."""
    with contextlib.suppress(OSError, NetlinkError), IPRoute() as route:
        route.link("del", index=socket.if_nametoindex(name))


def _write(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
        file.write(text)
