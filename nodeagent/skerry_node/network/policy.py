"""What an egress policy says of names and addresses, and a short name for it. Pure.

The kernel decides about packets; here stands what its rules are made from, and what the resolver asks.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from dataclasses import dataclass

from skerry_api import egress
from skerry_api.egress import Egress, EgressPort, EgressRule, Verdict

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
OPEN = "open"
"""The digest of a policy that says nothing of its own."""
_VERSION = "1"
"""Goes up when the same policy becomes other rules, so that a new agent writes them anew."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Networks that no sandbox reaches unless its manifest allows it, and those that no manifest opens."""

    closed: tuple[Network, ...] = ()
    forbidden: tuple[Network, ...] = ()


def digest(wanted: Egress) -> str:
    """Sixteen letters that tell one policy from another; OPEN for the one without rules."""
    if wanted.is_open:
        return OPEN
    text = json.dumps([_VERSION, egress.render_egress(wanted)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def may_look_up(wanted: Egress, name: str) -> bool:
    """Whether the resolver answers for *name*, in lower case and without a dot at its end.

    Where the default is Deny a question is itself something that leaves: only names of rules are asked for.
    """
    if is_denied(wanted, name):
        return False
    return wanted.default is Verdict.ALLOW or any(matches(rule, name) for rule in wanted.allow)


def is_denied(wanted: Egress, name: str) -> bool:
    """Whether a rule closes *name*."""
    return any(matches(rule, name) for rule in wanted.deny)


def matches(rule: EgressRule, name: str) -> bool:
    """Whether a rule by name means *name*: itself, or with `*.` whatever lies below, which is not the name without the star."""
    if rule.host is None:
        return False
    if rule.host == "*":
        return True
    if rule.host.startswith("*."):
        return name.endswith(rule.host[1:]) and len(name) > len(rule.host) - 1
    return name == rule.host


def opened_by(wanted: Egress, name: str) -> tuple[EgressPort, ...] | None:
    """What the answers for *name* open: ports, all of them when empty; None when no rule means the name."""
    rules = [rule for rule in wanted.allow if matches(rule, name)]
    if not rules:
        return None
    if any(not rule.ports for rule in rules):
        return ()
    return tuple(dict.fromkeys(port for rule in rules for port in rule.ports))


def needs_admission(wanted: Egress) -> bool:
    """Whether addresses are let in as names are looked up: where everything is allowed they need not be."""
    return wanted.default is Verdict.DENY and any(rule.host is not None for rule in wanted.allow)


def may_answer(wanted: Egress, ranges: Ranges, address: Address) -> bool:
    """Whether an answer may point at *address*: never into closed ranges, unless a rule by network opens a part of it (rebinding)."""
    plain = _unwrap(address)
    if _is_in(plain, ranges.forbidden) or any(rule.network is not None and not rule.ports and plain in rule.network for rule in wanted.deny):
        return False
    if any(rule.network is not None and plain in rule.network for rule in wanted.allow):
        return True
    return not _is_in(plain, ranges.closed)


def _unwrap(address: Address) -> Address:
    """An IPv4 address that is written as an IPv6 one means itself."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
