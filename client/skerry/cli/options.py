"""Options that several commands share, and the client that they lead to."""

from __future__ import annotations

from typing import Annotated

import typer

from skerry.client import Client

Socket = Annotated[
    str | None,
    typer.Option("--socket", metavar="PATH", help="The agent's socket; default: /run/skerry/agent.sock."),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Namespace; default: default."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The sandbox, as NAME or NAMESPACE/NAME.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Sandboxes, as NAME or NAMESPACE/NAME.")]

DEFAULT_NAMESPACE = "default"


def connect(socket: str | None, namespace: str | None) -> Client:
    """The client for these options; nothing is opened yet."""
    return Client(socket, namespace=namespace or DEFAULT_NAMESPACE)


def split(name: str, namespace: str | None) -> tuple[str, str]:
    """Namespace and name of what a person typed."""
    before, slash, after = name.partition("/")
    return (before, after) if slash else (namespace or DEFAULT_NAMESPACE, name)
