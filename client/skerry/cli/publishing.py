"""Published ports: docker's `-p` as entries of a manifest, and `skerry port`, which shows them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skerry.cli import options
from skerry.errors import SkerryError

if TYPE_CHECKING:
    from skerry_api.sandbox import Sandbox

_PUBLISH = re.compile(r"(?:(\[[0-9a-fA-F:.]+\]|[0-9.]+):)?([0-9]{1,5}):([0-9]{1,5})(?:/(tcp|udp))?")
_MAX_PORT = 65_535


class BadPortError(ValueError):
    """It cannot be read; says what to write."""


def parse(text: str) -> dict[str, Any]:
    """`8080:80`, `127.0.0.1:8080:80`, `[::1]:8080:80`, each with `/udp` or `/tcp`, as an entry of network.ports. Raises BadPortError."""
    found = _PUBLISH.fullmatch(text)
    if found is None:
        hint = "name the node's port, too" if text.partition("/")[0].isdecimal() else "one port each, no ranges"
        raise BadPortError(f"{text}: write it as 8080:80, 127.0.0.1:8080:80 or 8080:80/udp ({hint})")
    address, outside, inside, protocol = found.groups()
    if not all(0 < int(port) <= _MAX_PORT for port in (outside, inside)):
        raise BadPortError(f"{text}: ports are numbers from 1 to {_MAX_PORT}")
    entry = {"containerPort": int(inside), "hostPort": int(outside), "protocol": (protocol or "tcp").upper()}
    return entry | ({"hostIP": address.strip("[]")} if address else {})


def port(
    name: options.Name,
    inside: Annotated[str | None, typer.Argument(metavar="[PORT[/PROTOCOL]]", help="Only this one of its ports.")] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Show which ports of the node lead to a sandbox."""
    space, own_name = options.split(name, namespace)
    shown = render(options.connect(socket, namespace).get(own_name, namespace=space), inside)
    if inside is not None and not shown:
        raise SkerryError(f"{inside} of {own_name} is not published", hint=f"see all that are: skerry port {name}")
    for line in shown:
        print(line)


def render(sandbox: Sandbox, inside: str | None) -> list[str]:
    """A line for each published port, as docker writes them: `80/tcp -> 0.0.0.0:8080`; of one port only the place."""
    from skerry_api.ports import render_address  # noqa: PLC0415 - as the SDK does

    wanted = None if inside is None else inside.lower() if "/" in inside else f"{inside}/tcp"
    lines = []
    for each in sandbox.spec.network.ports:
        own = f"{each.container_port}/{each.protocol.lower()}"
        if each.host_port is None or wanted not in {None, own}:
            continue
        place = f"{render_address(each.host_address or '0.0.0.0')}:{each.host_port}"  # noqa: S104 - what docker shows
        lines.append(f"{own} -> {place}" if inside is None else place)
    return lines


def render_cell(sandbox: Sandbox) -> str:
    """All ports in one cell: `8080->80/tcp, 53/udp`."""
    from skerry_api import ports  # noqa: PLC0415 - as the SDK does

    return ", ".join(ports.show(each) for each in sandbox.spec.network.ports)
