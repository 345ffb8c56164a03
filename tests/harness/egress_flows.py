"""The table of flows: what a sandbox under a policy tries, and what comes of it. Data; addresses as egress_node.py has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WEB, OTHER, FAR = "198.51.100.2", "198.51.100.3", "203.0.113.2"
WEB6, OTHER6 = "2001:db8:77::2", "2001:db8:77::3"
NODE, NODE_PUBLIC, NEIGHBOUR, PRIVATE, CLUSTER, METADATA = "10.88.0.1", "198.51.100.1", "10.88.0.3", "192.168.7.2", "203.0.113.66", "169.254.169.254"
NODE6, NEIGHBOUR6, PRIVATE6 = "fd00:88::1", "fd00:88::3", "fd00:7::2"
OPEN, SHUT = "open", "shut"


@dataclass(frozen=True, slots=True)
class Flow:
    """Under *policy* (spec.network.egress) the sandbox evaluates *tries*; *gives* is what comes out."""

    id: str
    policy: dict[str, Any]
    tries: str
    gives: str


def _deny(*allow: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"default": "Deny", "allow": list(allow), **more}


def _ports(*ports: tuple[int, str]) -> dict[str, Any]:
    return {"ports": [{"port": port, "protocol": protocol} for port, protocol in ports]}


_ALL: dict[str, Any] = {}
_TCP80 = _ports((80, "TCP"))
_NAMES = _deny({"host": "a.example.com", **_ports((443, "TCP"))}, {"host": "*.wild.example.com"}, {"host": "chain.example.com"})
_WEB_NET = {"cidr": "198.51.100.0/24"}
_DENY_WEB = {"deny": [{"cidr": "198.51.100.2/32"}]}

FLOWS = (
    Flow("all is open: tcp", _ALL, f"tcp('{WEB}', 80)", OPEN),
    Flow("all is open: udp", _ALL, f"udp('{WEB}', 9999)", OPEN),
    Flow("all is open: icmp", _ALL, f"ping('{WEB}')", OPEN),
    Flow("all is open: fragments", _ALL, f"udp('{WEB}', 9999, size=4000)", OPEN),
    Flow("all is open: tcp by IPv6", _ALL, f"tcp('{WEB6}', 80)", OPEN),
    Flow("all is open: udp by IPv6", _ALL, f"udp('{WEB6}', 9999)", OPEN),
    Flow("all is open: fragments by IPv6", _ALL, f"udp('{WEB6}', 9999, size=4000)", OPEN),
    Flow("all is open: icmp by IPv6", _ALL, f"ping('{WEB6}')", OPEN),
    Flow("the node by its bridge", _ALL, f"tcp('{NODE}', 8080)", SHUT),
    Flow("the node by its bridge, udp", _ALL, f"udp('{NODE}', 8080)", SHUT),
    Flow("the node by ping", _ALL, f"ping('{NODE}')", SHUT),
    Flow("the node by its public address", _ALL, f"tcp('{NODE_PUBLIC}', 8080)", SHUT),
    Flow("the node by IPv6", _ALL, f"tcp('{NODE6}', 8080)", SHUT),
    Flow("a neighbour", _ALL, f"tcp('{NEIGHBOUR}', 80)", SHUT),
    Flow("a neighbour, udp", _ALL, f"udp('{NEIGHBOUR}', 9999)", SHUT),
    Flow("a neighbour by IPv6", _ALL, f"tcp('{NEIGHBOUR6}', 80)", SHUT),
    Flow("a private range", _ALL, f"tcp('{PRIVATE}', 80)", SHUT),
    Flow("a private range by IPv6", _ALL, f"tcp('{PRIVATE6}', 80)", SHUT),
    Flow("a private range, udp", _ALL, f"udp('{PRIVATE}', 9999)", SHUT),
    Flow("a range of the cluster", _ALL, f"tcp('{CLUSTER}', 80)", SHUT),
    Flow("metadata", _ALL, f"tcp('{METADATA}', 80)", SHUT),
    Flow("metadata, ping", _ALL, f"ping('{METADATA}')", SHUT),
    Flow("a private range that is allowed", {"allow": [{"cidr": "192.168.7.0/24"}]}, f"tcp('{PRIVATE}', 80)", OPEN),
    Flow("a private range by IPv6 that is allowed", {"allow": [{"cidr": "fd00:7::/32"}]}, f"tcp('{PRIVATE6}', 80)", OPEN),
    Flow("a range of the cluster that is allowed", {"allow": [{"cidr": "203.0.113.64/26"}]}, f"tcp('{CLUSTER}', 80)", OPEN),
    Flow("a port of a private range that is allowed", {"allow": [{"cidr": "192.168.7.2/32", **_TCP80}]}, f"tcp('{PRIVATE}', 80)", OPEN),
    Flow("another port there", {"allow": [{"cidr": "192.168.7.2/32", **_TCP80}]}, f"tcp('{PRIVATE}', 443)", SHUT),
    Flow("the node where that is allowed", {"allow": [{"cidr": "10.88.0.1/32", **_ports((8080, "TCP"))}]}, f"tcp('{NODE}', 8080)", OPEN),
    Flow("metadata, whatever is allowed", {"allow": [{"cidr": "169.254.0.0/16"}]}, f"tcp('{METADATA}', 80)", SHUT),
    Flow("metadata, when everything is allowed", {"allow": [{"cidr": "0.0.0.0/0"}]}, f"tcp('{METADATA}', 80)", SHUT),
    Flow("nothing is allowed: tcp", _deny(), f"tcp('{WEB}', 80)", SHUT),
    Flow("nothing is allowed: udp", _deny(), f"udp('{WEB}', 9999)", SHUT),
    Flow("nothing is allowed: icmp", _deny(), f"ping('{WEB}')", SHUT),
    Flow("nothing is allowed: fragments", _deny(), f"udp('{WEB}', 9999, size=4000)", SHUT),
    Flow("nothing is allowed: IPv6", _deny(), f"tcp('{WEB6}', 80)", SHUT),
    Flow("nothing is allowed: icmp by IPv6", _deny(), f"ping('{WEB6}')", SHUT),
    Flow("nothing is allowed: fragments by IPv6", _deny(), f"udp('{WEB6}', 9999, size=4000)", SHUT),
    Flow("a network", _deny(_WEB_NET), f"tcp('{WEB}', 443)", OPEN),
    Flow("a network, udp", _deny(_WEB_NET), f"udp('{WEB}', 9999)", OPEN),
    Flow("a network, icmp", _deny(_WEB_NET), f"ping('{WEB}')", OPEN),
    Flow("a network, from beyond it", _deny(_WEB_NET), f"tcp('{FAR}', 80)", SHUT),
    Flow("a network, but not the node in it", _deny(_WEB_NET), f"tcp('{NODE_PUBLIC}', 22)", SHUT),
    Flow("a network by IPv6", _deny({"cidr": "2001:db8:77::/64"}), f"tcp('{WEB6}', 80)", OPEN),
    Flow("a network of the other family", _deny({"cidr": "2001:db8:77::/64"}), f"tcp('{WEB}', 80)", SHUT),
    Flow("an address by IPv6, not its neighbour", _deny({"cidr": "2001:db8:77::3/128"}), f"tcp('{WEB6}', 80)", SHUT),
    Flow("a port", _deny({**_WEB_NET, **_TCP80}), f"tcp('{WEB}', 80)", OPEN),
    Flow("another port", _deny({**_WEB_NET, **_TCP80}), f"tcp('{WEB}', 443)", SHUT),
    Flow("another protocol", _deny({**_WEB_NET, **_TCP80}), f"udp('{WEB}', 80)", SHUT),
    Flow("a port, by ping", _deny({**_WEB_NET, **_TCP80}), f"ping('{WEB}')", SHUT),
    Flow("a port of udp", _deny({**_WEB_NET, **_ports((9999, "UDP"))}), f"udp('{WEB}', 9999)", OPEN),
    Flow("a port of udp, in fragments", _deny({**_WEB_NET, **_ports((9999, "UDP"))}), f"udp('{WEB}', 9999, size=4000)", OPEN),
    Flow("a second port", _deny({**_WEB_NET, **_ports((80, "TCP"), (443, "TCP"))}), f"tcp('{WEB}', 443)", OPEN),
    Flow("a port by IPv6", _deny({"cidr": "2001:db8::/32", **_TCP80}), f"tcp('{WEB6}', 80)", OPEN),
    Flow("another port by IPv6", _deny({"cidr": "2001:db8::/32", **_TCP80}), f"tcp('{WEB6}', 443)", SHUT),
    Flow("deny", _DENY_WEB, f"tcp('{WEB}', 80)", SHUT),
    Flow("deny, beside it", _DENY_WEB, f"tcp('{OTHER}', 80)", OPEN),
    Flow("deny wins over allow", _deny(_WEB_NET, **_DENY_WEB), f"tcp('{WEB}', 80)", SHUT),
    Flow("deny of a port", {"deny": [{"cidr": "0.0.0.0/0", **_TCP80}]}, f"tcp('{WEB}', 80)", SHUT),
    Flow("deny of a port, another", {"deny": [{"cidr": "0.0.0.0/0", **_TCP80}]}, f"tcp('{WEB}', 443)", OPEN),
    Flow("DNS to another server", _ALL, f"udp('{WEB}', 53)", SHUT),
    Flow("DNS to another server by TCP", _ALL, f"tcp('{WEB}', 53)", SHUT),
    Flow("DNS to another server under TLS", _ALL, f"tcp('{WEB}', 853)", SHUT),
    Flow("DNS to another server that is allowed", {"allow": [_WEB_NET]}, f"udp('{WEB}', 53)", OPEN),
    Flow("a look-up", _ALL, "lookup('a.example.com')", OTHER),
    Flow("a look-up by TCP", _ALL, "lookup('a.example.com', tcp=True)", OTHER),
    Flow("a look-up by IPv6", _ALL, "lookup('a.example.com', 'AAAA')", OTHER6),
    Flow("a look-up of the resolver's IPv6 address", _ALL, f"lookup('a.example.com', server='{NODE6}')", OTHER),
    Flow("an answer too long for UDP", _ALL, "lookup('long.example.com', 'TXT', tcp=None)", "40 records"),
    Flow("a name that does not exist", _ALL, "lookup('none.example.com')", "NXDOMAIN"),
    Flow("all is open: by name", _ALL, "named('a.example.com', 80)", OPEN),
    Flow("rebinding into a private range", _ALL, "lookup('rebind.example.com')", "REFUSED"),
    Flow("rebinding to the node", _ALL, "lookup('rebindnode.example.com')", "REFUSED"),
    Flow("rebinding to metadata", _ALL, "lookup('metadata.example.com')", "REFUSED"),
    Flow("rebinding by IPv6", _ALL, "lookup('rebind.example.com', 'AAAA')", "REFUSED"),
    Flow("rebinding beside a good answer", _ALL, "lookup('mixed.example.com')", OTHER),
    Flow("rebinding behind a CNAME", _ALL, "lookup('alias.example.com')", "REFUSED"),
    Flow("an answer into a range that is allowed", {"allow": [{"cidr": "192.168.7.0/24"}]}, "lookup('rebind.example.com')", PRIVATE),
    Flow("a name that is denied", {"deny": [{"host": "a.example.com"}]}, "lookup('a.example.com')", "REFUSED"),
    Flow("a name that leads to a denied one", {"deny": [{"host": "*.wild.example.com"}]}, "lookup('chain.example.com')", "REFUSED"),
    Flow("a name", _NAMES, "named('a.example.com', 443)", OPEN),
    Flow("a name by IPv6", _NAMES, "named('a.example.com', 443, 'AAAA')", OPEN),
    Flow("a name, another port", _NAMES, "named('a.example.com', 80)", SHUT),
    Flow("a name, its address without a look-up", _NAMES, f"tcp('{OTHER}', 443)", SHUT),
    Flow("a name, capitals", _NAMES, "named('A.Example.COM', 443)", OPEN),
    Flow("a wildcard", _NAMES, "named('x.wild.example.com', 80)", OPEN),
    Flow("a wildcard, deep", _NAMES, "named('x.y.wild.example.com', 80)", OPEN),
    Flow("a wildcard, the name itself", _NAMES, "lookup('wild.example.com')", "REFUSED"),
    Flow("a wildcard, a name that ends alike", _NAMES, "lookup('evilwild.example.com')", "REFUSED"),
    Flow("a chain of CNAMEs", _NAMES, "named('chain.example.com', 80)", OPEN),
    Flow("a loop of CNAMEs", _ALL, "lookup('loop.example.com')", "SERVFAIL"),
    Flow("a name of no rule", _NAMES, "lookup('b.example.com')", "REFUSED"),
    Flow("a name of no rule, text", _NAMES, "lookup('secret.b.example.com', 'TXT')", "REFUSED"),
    Flow("a name that points into a private range", _deny({"host": "rebind.example.com"}), "lookup('rebind.example.com')", "REFUSED"),
    Flow("every name", _deny({"host": "*", **_ports((443, "TCP"))}), "named('b.example.com', 443)", OPEN),
    Flow("a time to live", _deny({"host": "short.example.com"}), "named('short.example.com', 80)", OPEN),
    Flow("a time to live, over", _deny({"host": "short.example.com"}), "until_shut('short.example.com', 80)", SHUT),
    Flow("a neighbour's address as source", _ALL, f"spoof('{WEB}', 9999, source='{NEIGHBOUR}')", "not seen"),
    Flow("a stranger's address as source", _ALL, f"spoof('{WEB}', 9999, source='203.0.113.200')", "not seen"),
    Flow("another hardware address", _ALL, f"spoof('{WEB}', 9999, mac='025800000009')", "not seen"),
    Flow("no spoofing", _ALL, f"spoof('{WEB}', 9999)", "seen"),
    Flow("a router advertisement", _ALL, "advertise()", "not seen"),
)
