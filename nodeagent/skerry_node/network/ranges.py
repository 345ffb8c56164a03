"""Address ranges that are closed to sandboxes by default, and where they come from. Pure.

Sources: IANA's special-purpose registries for IPv4 and IPv6 (RFC 6890 and what it lists). Ranges for documentation are left out: nobody is there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from skerry_node.network.policy import Network, Ranges

PRIVATE = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # between a provider and its customers; some clouds and overlays keep their services there
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
    "::/96",  # unspecified, loopback, IPv4 in an old clothing
    "::ffff:0:0/96",  # IPv4 in another
    "64:ff9b::/96",  # and by translation
    "64:ff9b:1::/48",  # likewise, locally
    "100::/64",  # discard
    "2002::/16",  # IPv4 by 6to4
    "2001::/32",  # and by Teredo
    "fc00::/7",  # unique local
    "fe80::/10",  # link-local
    "fec0::/10",  # site-local
    "ff00::/8",  # multicast
)
METADATA = ("169.254.0.0/16", "fd00:ec2::254/128", "fd20:ce::254/128")
"""Where clouds serve the node's own credentials (AWS, Azure, GCP and others; AWS and GCP by IPv6): no manifest opens these by default."""


def make_ranges(*, sandboxes: Iterable[Network], cluster: Iterable[str] = (), forbidden: Iterable[str] = METADATA) -> Ranges:
    """Everything that is closed: private ranges, the sandboxes' own, the cluster's. Overlaps are joined, as the kernel's sets want it."""
    closed = [*sandboxes, *(ipaddress.ip_network(text) for text in (*PRIVATE, *cluster))]
    return Ranges(closed=_join(closed), forbidden=_join(ipaddress.ip_network(text) for text in forbidden))


def _join(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Sorted, without overlaps, IPv4 first."""
    listed = list(networks)
    fours = [network for network in listed if isinstance(network, ipaddress.IPv4Network)]
    sixes = [network for network in listed if isinstance(network, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(fours), *ipaddress.collapse_addresses(sixes))
