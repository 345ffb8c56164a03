"""What a sandbox may send, and where to: `spec.network.egress`, from JSON to values and back. Pure."""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api import fields
from skerry_api.errors import InvalidManifest
from skerry_api.fields import Raw

MAX_RULES, MAX_PORTS = 32, 16
_HOST = re.compile(r"\*|(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Verdict(enum.StrEnum):
    """What happens to what no rule speaks of."""

    ALLOW = "Allow"
    DENY = "Deny"


class Protocol(enum.StrEnum):
    """A protocol that has ports."""

    TCP = "TCP"
    UDP = "UDP"


@dataclass(frozen=True, slots=True)
class EgressPort:
    """One port of one protocol."""

    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class EgressRule:
    """Where to: a network or a name, one of the two. No ports means everything, whatever its protocol."""

    network: Network | None = None
    host: str | None = None
    """A name, `*.` and a name for all below it, or `*` for every name."""
    ports: tuple[EgressPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Egress:
    """The whole of it. Deny wins over allow, allow over what is closed by default, and that over `default`."""

    default: Verdict = Verdict.ALLOW
    allow: tuple[EgressRule, ...] = ()
    deny: tuple[EgressRule, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it says nothing of its own."""
        return self == OPEN


OPEN = Egress()
"""The policy without rules of its own."""


def parse_egress(raw: Raw) -> Egress:
    """The Egress of `spec.network`. Raises InvalidManifest."""
    path = "spec.network.egress"
    found = fields.section(raw, "egress", "spec.network")
    fields.refuse_unknown(found, path, frozenset({"default", "allow", "deny"}))
    return Egress(
        default=fields.choice(found, "default", path, Verdict, Verdict.ALLOW),
        allow=_parse_rules(found, "allow", path),
        deny=_parse_rules(found, "deny", path),
    )


def render_egress(value: Egress) -> dict[str, Any] | None:
    """As the manifest has it; None where it says nothing."""
    if value.is_open:
        return None
    rendered: dict[str, Any] = {"default": value.default.value}
    for name, rules in (("allow", value.allow), ("deny", value.deny)):
        if rules:
            rendered[name] = [_render_rule(rule) for rule in rules]
    return rendered


def _render_rule(rule: EgressRule) -> dict[str, Any]:
    where: dict[str, Any] = {"cidr": str(rule.network)} if rule.network is not None else {"host": rule.host}
    if rule.ports:
        where["ports"] = [{"port": each.port, "protocol": each.protocol.value} for each in rule.ports]
    return where


def _parse_rules(raw: Raw, key: str, path: str) -> tuple[EgressRule, ...]:
    entries = raw.get(key) or []
    if not isinstance(entries, list) or len(entries) > MAX_RULES:
        raise InvalidManifest(f"{path}.{key}", f"write a list of at most {MAX_RULES} rules")
    return tuple(_parse_rule(entry, f"{path}.{key}[{place}]") for place, entry in enumerate(entries))


def _parse_rule(entry: object, path: str) -> EgressRule:
    if not isinstance(entry, Mapping):
        raise InvalidManifest(path, "write {cidr: 192.0.2.0/24} or {host: example.com}")
    fields.refuse_unknown(entry, path, frozenset({"cidr", "host", "ports"}))
    if (entry.get("cidr") is None) == (entry.get("host") is None):
        raise InvalidManifest(path, "write one of cidr, host")
    return EgressRule(network=_parse_network(entry, path), host=_parse_host(entry, path), ports=_parse_ports(entry, path))


def _parse_network(entry: Raw, path: str) -> Network | None:
    text = fields.text(entry, "cidr", path, limit=64)
    if text is None:
        return None
    try:
        if "/" in text:
            return ipaddress.ip_network(text)
    except ValueError:
        pass
    raise InvalidManifest(f"{path}.cidr", "write a network, for example 192.0.2.0/24 or 2001:db8::/64, no bit set beyond its prefix")


def _parse_host(entry: Raw, path: str) -> str | None:
    host = fields.text(entry, "host", path, limit=253)
    if host is not None and _HOST.fullmatch(host) is None:
        raise InvalidManifest(f"{path}.host", "write a name in lower case, for example example.com or *.example.com")
    return host


def _parse_ports(entry: Raw, path: str) -> tuple[EgressPort, ...]:
    listed = entry.get("ports") or []
    if not isinstance(listed, list) or len(listed) > MAX_PORTS:
        raise InvalidManifest(f"{path}.ports", f"write a list of at most {MAX_PORTS} {{port, protocol}}")
    found = []
    for place, each in enumerate(listed):
        where = f"{path}.ports[{place}]"
        if not isinstance(each, Mapping):
            raise InvalidManifest(where, "write {port: 443, protocol: TCP}")
        fields.refuse_unknown(each, where, frozenset({"port", "protocol"}))
        number = fields.number(each, "port", where, low=1, high=65_535)
        if number is None:
            raise InvalidManifest(f"{where}.port", "write a whole number from 1 to 65535")
        found.append(EgressPort(port=number, protocol=fields.choice(each, "protocol", where, Protocol, Protocol.TCP)))
    return tuple(found)
