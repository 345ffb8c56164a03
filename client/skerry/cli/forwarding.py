"""`skerry port-forward`: local ports that lead to ports of a sandbox."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from skerry import ports as forwarding
from skerry.cli import options, output


def port_forward(
    name: options.Name,
    ports: Annotated[list[str], typer.Argument(metavar="[LOCAL:]PORT...", help="Ports; 0:PORT takes a free local one.")],
    address: Annotated[str, typer.Option("--address", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Connect local ports to ports of a running sandbox until Ctrl-C. What listens on its loopback only is reached, too."""
    space, own_name = options.split(name, namespace)
    client = options.connect(socket, namespace)
    pairs = [_parse(text) for text in ports]
    forwarding.forward(
        lambda port: client.open_port(own_name, port, namespace=space), pairs, address=address,
        tell=functools.partial(print, flush=True), complain=output.print_error,
    )  # fmt: skip


def _parse(text: str) -> tuple[int, int]:
    local, colon, remote = text.partition(":")
    remote = remote if colon else local
    if not (local.isdecimal() and remote.isdecimal() and int(local) < 65_536 and 0 < int(remote) < 65_536):
        raise typer.BadParameter(f"{text} is not PORT or LOCAL:PORT", param_hint="PORT")
    return int(local), int(remote)
