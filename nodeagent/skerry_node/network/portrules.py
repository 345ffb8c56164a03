"""The nft tables that publish ports: what to translate stands in maps, so that one rule serves every sandbox. The `nft` command loads them.

Their own, beside the table that judges: translation of destinations comes first (dstnat), and whoever judges at forward sees the real
destination, with `ct status dnat` for what came by a published port. Rules are replaced in one transaction, maps are kept: what is published
stays so while no agent runs.

Where br_netfilter hands frames of the bridge to these chains, a frame between two sandboxes is translated while it is still the bridge's, and
never routed. Ports that publish are therefore not isolated then (see `bridge.open_port`), and the table of the bridge family lets nothing
between ports pass but that, told by a mark.
"""

from __future__ import annotations

import ipaddress

from skerry_node.network.ruleset import PUBLISHED_MARK, RulesFailed, load

PLAIN_4, BOUND_4, PLAIN_6, BOUND_6 = "ports4", "bound4", "ports6", "bound6"
"""The maps: by protocol and port, and by address, protocol and port, for each family."""


def table_name(bridge: str) -> str:
    """The tables of *bridge*, in the families inet and bridge."""
    return f"skerry-{bridge}-ports"


def render_rules(bridge: str, network: ipaddress.IPv4Network, *, link_prefix: str, network6: ipaddress.IPv6Network | None = None) -> str:
    """The transaction that puts the rules in place and keeps the maps. Names match, not indices: the bridge may come later.

    What comes to an address of this node by a published port is translated, whether from outside, from the node or from a sandbox. Only what
    could not be answered otherwise gets the node's address for its source: what the node sends from its loopback, and what comes from a sandbox.
    Loopback addresses from elsewhere are dropped before they are translated: a port of 127.0.0.1 is the node's alone, and the bridge routes such
    addresses now (route_localnet).
    """
    table = table_name(bridge)
    translate = f"""
        fib daddr type != local return
        dnat ip to ip daddr . meta l4proto . th dport map @{BOUND_4}
        dnat ip to meta l4proto . th dport map @{PLAIN_4}
        dnat ip6 to ip6 daddr . meta l4proto . th dport map @{BOUND_6}
        dnat ip6 to meta l4proto . th dport map @{PLAIN_6}"""
    marks6 = hairpin6 = ""
    if network6 is not None:
        marks6 = f'iifname "{bridge}" ip6 daddr {network6} ct status dnat meta mark set meta mark or {PUBLISHED_MARK:#x}'
        hairpin6 = f'oifname "{bridge}" ip6 saddr {{ {network6}, ::1 }} ct status dnat masquerade'
    return f"""
table inet {table} {{
    map {PLAIN_4} {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map {BOUND_4} {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map {PLAIN_6} {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map {BOUND_6} {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
    chain loopback {{ type filter hook prerouting priority raw; policy accept; }}
    chain arriving {{ type nat hook prerouting priority dstnat; policy accept; }}
    chain local {{ type nat hook output priority -100; policy accept; }}
    chain leaving {{ type nat hook postrouting priority srcnat; policy accept; }}
    chain between {{ type filter hook prerouting priority dstnat + 10; policy accept; }}
}}
flush table inet {table}
table inet {table} {{
    chain loopback {{
        iifname != "lo" ip daddr 127.0.0.0/8 drop
        iifname "{bridge}" ip saddr 127.0.0.0/8 drop
    }}
    chain arriving {{{translate}
    }}
    chain local {{{translate}
    }}
    chain leaving {{
        oifname "{bridge}" ip saddr {{ {network}, 127.0.0.0/8 }} ct status dnat masquerade
        {hairpin6}
    }}
    chain between {{
        iifname "{bridge}" ip daddr {network} ct status dnat meta mark set meta mark or {PUBLISHED_MARK:#x}
        {marks6}
    }}
}}
table bridge {table} {{
    chain between {{ type filter hook forward priority -10; policy accept; }}
}}
flush table bridge {table}
table bridge {table} {{
    chain between {{
        iifname "{link_prefix}*" meta mark and {PUBLISHED_MARK:#x} != {PUBLISHED_MARK:#x} drop
    }}
}}
"""


def ensure_rules(bridge: str, network: ipaddress.IPv4Network, *, link_prefix: str, network6: ipaddress.IPv6Network | None = None) -> None:
    """Load the rules; what is published stays. Raises RulesFailed. Maps of another version are made anew, and published anew after."""
    script = render_rules(bridge, network, link_prefix=link_prefix, network6=network6)
    try:
        load(script)
    except RulesFailed:
        load(render_removal(bridge) + script)


def remove_rules(bridge: str) -> None:
    """Remove both tables; those that are gone are fine. Raises RulesFailed."""
    load(render_removal(bridge))


def render_removal(bridge: str) -> str:
    """The transaction that leaves neither table."""
    table = table_name(bridge)
    return "".join(f"table {family} {table} {{}}\ndelete table {family} {table}\n" for family in ("inet", "bridge"))
