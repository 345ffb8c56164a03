"""Which addresses images may come from without the operator's word. Pure.

Closed are this machine, its links, private networks and clouds' metadata services: a reference, a redirect or a token realm
is written by strangers, and the agent stands inside the cluster. Source: RFC 6890 and its IANA registries; clouds' documentation.
"""

from __future__ import annotations

import ipaddress

from yarl import URL

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_MORE = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's platform address, a public one
    ipaddress.IPv6Network("fec0::/10"),  # site-local of old (RFC 3879)
)
_PORTS = {"https": 443, "http": 80}


def is_closed(text: str) -> bool:
    """Whether the address *text* is closed; what is no address is."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_closed(str(inner))
    return not address.is_global or address.is_multicast or any(address in each for each in _MORE)


def origin(url: URL) -> str:
    """*url*'s host:port, the port always there; what a credential, a header and a trust belong to."""
    host = (url.host or "").lower().rstrip(".")
    return f"[{host}]:{port(url)}" if ":" in host else f"{host}:{port(url)}"


def port(url: URL) -> int:
    """*url*'s port."""
    return url.port or _PORTS.get(url.scheme, 0)
