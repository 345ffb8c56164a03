"""Ports of a sandbox as values, with their parsing and rendering: those that are only named, and those that its node publishes. Pure."""

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

MAX_PORTS = 64
MAX_PORT = 65_535
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_NAME_RULE = "write at most 15 lower-case letters, digits and dashes"
"""What pods' port names are held to, but that a name of digits only would be taken for a number."""


class Protocol(enum.StrEnum):
    """What a port speaks."""

    TCP = "TCP"
    UDP = "UDP"


@dataclass(frozen=True, slots=True)
class Port:
    """One port. *host_port* None: the node does not publish it. *host_address* empty: on every address of the node."""

    container_port: int
    host_port: int | None = None
    protocol: Protocol = Protocol.TCP
    name: str = ""
    host_address: str = ""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A place on a node that one sandbox at a time can have. *address* empty: on every address."""

    protocol: Protocol
    port: int
    address: str = ""

    def meets(self, other: HostPort) -> bool:
        """Whether the two cannot be had by two sandboxes."""
        is_same_place = not self.address or not other.address or self.address == other.address
        return self.port == other.port and self.protocol is other.protocol and is_same_place

    def __str__(self) -> str:
        return f"{self.address and f'{render_address(self.address)}:'}{self.port}/{self.protocol.lower()}"


@dataclass(frozen=True, slots=True)
class Published:
    """One port of a node, and the port of a sandbox that it leads to."""

    host: HostPort
    container_port: int


def published(ports: tuple[Port, ...]) -> frozenset[Published]:
    """Those of *ports* that the node publishes."""
    return frozenset(
        Published(HostPort(each.protocol, each.host_port, each.host_address), each.container_port) for each in ports if each.host_port is not None
    )


def host_ports(ports: tuple[Port, ...]) -> frozenset[HostPort]:
    """What *ports* take of a node."""
    return frozenset(each.host for each in published(ports))


def parse_ports(raw: Raw, path: str, *, is_bridged: bool) -> tuple[Port, ...]:
    """`ports` of a network. Raises InvalidManifest."""
    entries = raw.get("ports")
    entries = [] if entries is None else entries
    if not isinstance(entries, list) or len(entries) > MAX_PORTS:
        raise InvalidManifest(f"{path}.ports", f"write a list of at most {MAX_PORTS} of {{containerPort: 80, hostPort: 8080}}")
    found: list[Port] = []
    for place, entry in enumerate(entries):
        port = _parse_port(entry, f"{path}.ports[{place}]", is_bridged=is_bridged)
        if port.name and any(port.name == other.name for other in found):
            raise InvalidManifest(f"{path}.ports[{place}].name", f"there is a port {port.name} already; give each a name of its own")
        (wanted,) = host_ports((port,)) or (None,)
        if wanted is not None and any(wanted.meets(other) for other in host_ports(tuple(found))):
            raise InvalidManifest(f"{path}.ports[{place}].hostPort", f"{wanted} is published already; give each a hostPort of its own")
        found.append(port)
    return tuple(found)


def render_port(port: Port) -> dict[str, Any]:
    """One entry; what is empty is left out."""
    values: dict[str, Any] = {
        "name": port.name,
        "containerPort": port.container_port,
        "hostPort": port.host_port,
        "hostIP": port.host_address,
        "protocol": port.protocol.value,
    }
    return {key: value for key, value in values.items() if value}


def show(port: Port) -> str:
    """For people, as docker shows it: `8080->80/tcp`, `127.0.0.1:8080->80/tcp`, `80/tcp`."""
    inside = f"{port.container_port}/{port.protocol.lower()}"
    if port.host_port is None:
        return inside
    return f"{port.host_address and f'{render_address(port.host_address)}:'}{port.host_port}->{inside}"


def render_address(address: str) -> str:
    """An address as it stands before a port: those of version 6 in brackets."""
    return f"[{address}]" if ":" in address else address


def _parse_port(entry: object, path: str, *, is_bridged: bool) -> Port:
    if not isinstance(entry, Mapping):
        raise InvalidManifest(path, "write {containerPort: 80, hostPort: 8080}")
    fields.refuse_unknown(entry, path, frozenset({"name", "containerPort", "hostPort", "hostIP", "protocol"}))
    name = fields.text(entry, "name", path, limit=15) or ""
    if name and (_NAME.fullmatch(name) is None or name.isdigit()):
        raise InvalidManifest(f"{path}.name", _NAME_RULE)
    inside = fields.number(entry, "containerPort", path, low=1, high=MAX_PORT)
    if inside is None:
        raise InvalidManifest(f"{path}.containerPort", f"write a whole number from 1 to {MAX_PORT}")
    outside = fields.number(entry, "hostPort", path, low=1, high=MAX_PORT)
    if outside is not None and not is_bridged:
        raise InvalidManifest(f"{path}.hostPort", "write no hostPort unless network.mode is Bridge")
    return Port(
        container_port=inside,
        host_port=outside,
        protocol=fields.choice(entry, "protocol", path, Protocol, Protocol.TCP),
        name=name,
        host_address=_parse_address(entry, path, has_port=outside is not None),
    )


def _parse_address(entry: Raw, path: str, *, has_port: bool) -> str:
    text = fields.text(entry, "hostIP", path, limit=45) or ""
    if not text:
        return ""
    if not has_port:
        raise InvalidManifest(f"{path}.hostIP", "write a hostPort beside it")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidManifest(f"{path}.hostIP", "write an address of the node, for example 127.0.0.1") from None
    if "%" in text or getattr(address, "ipv4_mapped", None):
        raise InvalidManifest(f"{path}.hostIP", "write an address of the node, for example 127.0.0.1")
    return "" if address.is_unspecified else str(address)
