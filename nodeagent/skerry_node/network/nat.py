"""One nft table per bridge: translation for what leaves, and no way from a sandbox to the node itself or to a neighbour.

Written once when the agent starts, in one transaction that replaces the old one, so that the rules stand when the agent is dead and no packet
meets half of them. The `nft` command does it, because nothing of this is on the launch path and its text is what an administrator reads back
with `nft list ruleset`; rules that change with each sandbox will need sets, and netlink.
"""

from __future__ import annotations

import ipaddress
import subprocess


class RulesFailed(Exception):
    """The rules cannot be loaded; the message says what to do."""


def render_rules(bridge: str, network: ipaddress.IPv4Network) -> str:
    """The transaction that puts the table in place of whatever was there. Names match, not indices: the bridge may come later.

    Link-local addresses are where clouds keep their metadata, and some of them their resolver: only the resolver is reached.
    """
    table = table_name(bridge)
    return f"""
table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} oifname != "{bridge}" masquerade
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" oifname "{bridge}" drop
        iifname "{bridge}" meta nfproto ipv6 drop
        oifname "{bridge}" meta nfproto ipv6 drop
        iifname "{bridge}" ip saddr != {network} drop
        iifname "{bridge}" ip daddr 169.254.0.0/16 meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname "{bridge}" ip daddr 169.254.0.0/16 drop
        oifname "{bridge}" ct state invalid drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{bridge}" ct state established,related accept
        iifname "{bridge}" icmp type echo-request accept
        iifname "{bridge}" drop
    }}
}}
"""


def ensure_rules(bridge: str, network: ipaddress.IPv4Network) -> None:
    """Load the rules. Raises RulesFailed."""
    _nft(render_rules(bridge, network))


def remove_rules(bridge: str) -> None:
    """Remove the table; one that is gone is fine."""
    table = table_name(bridge)
    _nft(f"table inet {table} {{}}\ndelete table inet {table}\n")


def table_name(bridge: str) -> str:
    """The table of *bridge*."""
    return f"skerry-{bridge}"


def _nft(script: str) -> None:
    try:
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise RulesFailed("the command nft is missing; install the package nftables") from error
    except subprocess.CalledProcessError as error:
        raise RulesFailed(f"nft refused the rules: {error.stderr.strip()}") from error
