"""The counters of every link in one answer of the kernel, for a scrape (rtnetlink(7), RTM_GETSTATS; include/uapi/linux/if_link.h)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Mapping

from skerry_node.kernel import netlink
from skerry_node.network.traffic import Traffic

_RTM_GETSTATS = 94
_STATS_LINK_64 = 1
"""IFLA_STATS_LINK_64, and bit 0 of the mask of what is wanted."""
_HEADER = struct.Struct("=BBHII")
"""struct if_stats_msg: family, padding, padding, index, mask."""
_COUNTERS = struct.Struct("=8Q")
"""struct rtnl_link_stats64 begins: rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped."""


class Tally:
    """Remembers which index each link has: the kernel gives a new link a new one. For one thread at a time; `close` it."""

    def __init__(self) -> None:
        self._netlink = netlink.Netlink()
        self._indexes: dict[str, int] = {}

    def close(self) -> None:
        """Let go of the socket."""
        self._netlink.close()

    def read(self, links: Iterable[str]) -> Mapping[str, Traffic]:
        """The traffic of each of *links* that is there, by its name on the host. Raises OSError."""
        wanted = set(links)
        if not wanted:
            return {}
        bodies = self._netlink.dump(netlink.Message(_RTM_GETSTATS, 0, _HEADER.pack(0, 0, 0, 0, 1), "counters of links"))
        found = {_HEADER.unpack_from(body)[3]: body for body in bodies}
        self._indexes = {name: index for name, index in self._indexes.items() if name in wanted and index in found}
        for name in wanted - self._indexes.keys():
            with contextlib.suppress(OSError):  # it has gone
                self._indexes[name] = socket.if_nametoindex(name)
        read = {name: parse(found[index]) for name, index in self._indexes.items() if index in found}
        return {name: traffic for name, traffic in read.items() if traffic is not None}


def parse(body: bytes) -> Traffic | None:
    """One link's counters, as its sandbox sees them: what the host's end sends is what the sandbox receives."""
    raw = netlink.parse_attributes(body, _HEADER.size).get(_STATS_LINK_64)
    if raw is None or len(raw) < _COUNTERS.size:
        return None
    in_packets, out_packets, in_bytes, out_bytes, _, _, in_dropped, out_dropped = _COUNTERS.unpack_from(raw)
    return Traffic(
        received_bytes=out_bytes, received_packets=out_packets, received_dropped=out_dropped,
        sent_bytes=in_bytes, sent_packets=in_packets, sent_dropped=in_dropped,
    )  # fmt: skip
