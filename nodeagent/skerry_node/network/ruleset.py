"""The rules that every sandbox of one bridge shares: two nft tables, written once when the agent starts, in one transaction.

What differs from sandbox to sandbox are elements of sets and maps, by address and by port, and for those with a policy of their own a chain; all
that is `firewall.py`'s, by netlink. This is text for the command `nft`, because nothing of it is on the launch path, and an administrator reads it
back with `nft list ruleset`. The sets, and what is in them, stay when the rules are written again: a new agent changes nothing for those who run.

- Table of the family bridge: which port may use which addresses, and no frame from port to port.
- Table of the family inet: what passes. A flow carries the *epoch* of its sandbox as its connection mark; a change of policy is a new epoch, and from
  that moment on every flow is looked at again. So a tightened policy cuts at the next packet, and a slot's next owner inherits no flow.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from skerry_node.network.policy import Network, Ranges

DNS_PER_SECOND = 200
"""Packets to the resolver that one sandbox may send; more are dropped before the agent sees them."""
_SIZE = 65_536
PUBLISHED_MARK = 0x0010_0000
"""The bit of a frame's mark that says: between two sandboxes by a published port (portrules.py). kube-proxy, Calico and Cilium use others."""


class RulesFailed(Exception):
    """The rules cannot be loaded; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rules are about: the bridge, how its ports' names begin, the sandboxes' networks, the addresses of the bridge, ranges."""

    bridge: str
    port_prefix: str
    networks: tuple[Network, ...]
    gateways: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]
    ranges: Ranges


def table_name(bridge: str) -> str:
    """The name of both tables of *bridge*."""
    return f"skerry-{bridge}"


def ensure_rules(layout: Layout) -> None:
    """Load the rules. Where an older version's sets stand in the way everything is made anew, closed until it is filled. Raises RulesFailed."""
    try:
        load(render_rules(layout))
    except RulesFailed:
        load(_render_removal(layout.bridge) + render_rules(layout))


def remove_rules(bridge: str) -> None:
    """Remove both tables; one that is gone is fine. Raises RulesFailed."""
    load(_render_removal(bridge))


def render_rules(layout: Layout) -> str:
    """The transaction: rules and ranges are replaced, sets of sandboxes are left as they are. Names match, not indices: links may come later."""
    table = table_name(layout.bridge)
    flushed = "".join(f"flush chain {family} {table} {chain}\n" for family, chain in _CHAINS)
    flushed += "".join(f"flush set inet {table} {name}\n" for name in ("closed4", "closed6", "forbidden4", "forbidden6"))
    return _render_sets(table) + flushed + _render_bridge_rules(layout, table) + _render_inet_rules(layout, table)


_CHAINS = (
    ("bridge", "prerouting"), ("bridge", "forward"), ("bridge", "from_port"), ("bridge", "refused"), ("inet", "postrouting"), ("inet", "forward"),
    ("inet", "input"), ("inet", "leaving"), ("inet", "from_sandbox"), ("inet", "to_sandbox"), ("inet", "to_node"), ("inet", "known"),
    ("inet", "marked"), ("inet", "open"), ("inet", "closed"), ("inet", "allowed"), ("inet", "denied"), ("inet", "resolver"),
)  # fmt: skip


def _render_sets(table: str) -> str:
    pinned, plain = f"size {_SIZE};", f"size {_SIZE};"
    return f"""
table bridge {table} {{
    set pins4 {{ typeof iifname . ether saddr . ip saddr; {pinned} }}
    set pins6 {{ typeof iifname . ether saddr . ip6 saddr; {pinned} }}
    set targets6 {{ typeof iifname . @th,64,128; {pinned} }}
    set refused_by_port {{ type ifname; {plain} counter; }}
    chain prerouting {{ type filter hook prerouting priority dstnat; policy accept; }}
    chain forward {{ type filter hook forward priority filter; policy accept; }}
    chain from_port {{ }}
    chain refused {{ }}
}}
table inet {table} {{
    set closed4 {{ type ipv4_addr; flags interval; }}
    set closed6 {{ type ipv6_addr; flags interval; }}
    set forbidden4 {{ type ipv4_addr; flags interval; }}
    set forbidden6 {{ type ipv6_addr; flags interval; }}
    set denied4 {{ type ipv4_addr; {plain} counter; }}
    set denied6 {{ type ipv6_addr; {plain} counter; }}
    map egress4 {{ type ipv4_addr : verdict; {plain} }}
    map egress6 {{ type ipv6_addr : verdict; {plain} }}
    map epoch4 {{ type ipv4_addr : mark; {plain} }}
    map epoch6 {{ type ipv6_addr : mark; {plain} }}
    set epochs4 {{ typeof ip saddr . ct mark; {plain} }}
    set epochs6 {{ typeof ip6 saddr . ct mark; {plain} }}
    set askers4 {{ type ipv4_addr; flags dynamic,timeout; timeout 10s; {plain} }}
    set askers6 {{ type ipv6_addr; flags dynamic,timeout; timeout 10s; {plain} }}
    chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
    chain forward {{ type filter hook forward priority filter; policy accept; }}
    chain input {{ type filter hook input priority filter; policy accept; }}
    chain leaving {{ type filter hook postrouting priority filter; policy accept; }}
    chain from_sandbox {{ }}
    chain to_sandbox {{ }}
    chain to_node {{ }}
    chain known {{ }}
    chain marked {{ }}
    chain open {{ }}
    chain closed {{ }}
    chain allowed {{ }}
    chain denied {{ }}
    chain resolver {{ }}
}}
"""


def _render_bridge_rules(layout: Layout, table: str) -> str:
    """What the kernel of a sandbox says by itself, asking for routers and telling of multicast groups, goes nowhere and is not counted."""
    ports = f'"{layout.port_prefix}*"'
    return f"""
table bridge {table} {{
    chain prerouting {{
        iifname {ports} goto from_port
    }}
    chain from_port {{
        ether type ip iifname . ether saddr . ip saddr @pins4 accept
        ether type arp iifname . ether saddr . arp saddr ip @pins4 iifname . arp saddr ether . arp saddr ip @pins4 accept
        ether type != ip6 goto refused
        icmpv6 type {{ nd-router-solicit, mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} drop
        icmpv6 type {{ nd-router-advert, nd-redirect }} goto refused
        icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets6 goto refused
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @targets6 accept
        iifname . ether saddr . ip6 saddr @pins6 accept
        goto refused
    }}
    chain refused {{
        iifname @refused_by_port drop
        drop
    }}
    chain forward {{
        iifname {ports} oifname {ports} meta mark and {PUBLISHED_MARK:#x} != {PUBLISHED_MARK:#x} drop
    }}
}}
"""


def _render_inet_rules(layout: Layout, table: str) -> str:
    """`closed` returns for what is not closed. What is compared is what the program asked for, before any translation, and what came of it.

    A sandbox behind a port that it publishes is not closed. `leaving` marks what the node itself sends, after its translation.
    """
    bridge = f'"{layout.bridge}"'
    masquerades = "".join(f"        {_word(each)} saddr {each} oifname != {bridge} masquerade\n" for each in layout.networks)
    resolvers = "".join(f"        {_word(each)} daddr {each} meta l4proto {{ tcp, udp }} th dport 53 goto resolver\n" for each in layout.gateways)
    published = "".join(f"        ct status dnat {_word(each)} daddr {each} return\n" for each in layout.networks)
    return f"""
table inet {table} {{
{_render_elements("closed", layout.ranges.closed)}{_render_elements("forbidden", layout.ranges.forbidden)}
    chain postrouting {{
{masquerades}    }}
    chain forward {{
        iifname {bridge} goto from_sandbox
        oifname {bridge} goto to_sandbox
    }}
    chain input {{
        iifname {bridge} goto to_node
    }}
    chain leaving {{
        oifname {bridge} ct state new ct mark 0 goto marked
    }}
    chain to_node {{
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 hoplimit 255 accept
{resolvers}        goto from_sandbox
    }}
    chain resolver {{
        update @askers4 {{ ip saddr limit rate over {DNS_PER_SECOND}/second burst {DNS_PER_SECOND} packets }} goto denied
        update @askers6 {{ ip6 saddr limit rate over {DNS_PER_SECOND}/second burst {DNS_PER_SECOND} packets }} goto denied
        accept
    }}
    chain from_sandbox {{
        ct state established,related jump known
        ct direction reply goto denied
        ct state {{ invalid, untracked }} goto denied
        ct original ip daddr @forbidden4 goto denied
        ct original ip6 daddr @forbidden6 goto denied
        ip daddr @forbidden4 goto denied
        ip6 daddr @forbidden6 goto denied
        ip saddr vmap @egress4
        ip6 saddr vmap @egress6
        goto denied
    }}
    chain to_sandbox {{
        ct state established,related jump known
        ct state new goto marked
        drop
    }}
    chain known {{
        ip saddr . ct mark @epochs4 accept
        ip daddr . ct mark @epochs4 accept
        ip6 saddr . ct mark @epochs6 accept
        ip6 daddr . ct mark @epochs6 accept
    }}
    chain marked {{
        ct mark set ip daddr map @epoch4 accept
        ct mark set ip6 daddr map @epoch6 accept
        drop
    }}
    chain allowed {{
        ct mark set ip saddr map @epoch4 accept
        ct mark set ip6 saddr map @epoch6 accept
        goto denied
    }}
    chain open {{
        jump closed
        goto allowed
    }}
    chain closed {{
{published}        ct original ip daddr @closed4 goto denied
        ct original ip6 daddr @closed6 goto denied
        ct status dnat ip daddr @closed4 goto denied
        ct status dnat ip6 daddr @closed6 goto denied
        fib daddr type != unicast goto denied
        meta l4proto {{ tcp, udp }} ct original proto-dst {{ 53, 853 }} goto denied
    }}
    chain denied {{
        ip saddr @denied4 reject with icmpx admin-prohibited
        ip6 saddr @denied6 reject with icmpx admin-prohibited
        drop
    }}
}}
"""


def _render_elements(name: str, networks: Sequence[Network]) -> str:
    text = ""
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        members = ", ".join(str(each) for each in networks if each.version == version)
        if members:
            text += f"    set {name}{version} {{ type {kind}; flags interval; elements = {{ {members} }} }}\n"
    return text


def _word(address: Network | ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return "ip" if address.version == 4 else "ip6"


def _render_removal(bridge: str) -> str:
    name = table_name(bridge)
    return "".join(f"table {family} {name} {{}}\ndelete table {family} {name}\n" for family in ("bridge", "inet"))


def load(script: str) -> None:
    """Have the nft command do *script*, all of it or nothing. Raises RulesFailed."""
    try:
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise RulesFailed("the command nft is missing; install the package nftables") from error
    except subprocess.CalledProcessError as error:
        raise RulesFailed(f"nft refused the rules: {error.stderr.strip()}") from error
