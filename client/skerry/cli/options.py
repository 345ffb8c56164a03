"""Options that several commands share, and the client that they lead to: a cluster's, or the agent's of this machine."""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from skerry import client, kubeconfig
from skerry.client import Client

Socket = Annotated[
    str | None,
    typer.Option("--socket", metavar="PATH", help="The agent's socket, in place of a cluster; default: /run/skerry/agent.sock."),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Namespace; default: the context's, or default."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The sandbox, as NAME or NAMESPACE/NAME.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Sandboxes, as NAME or NAMESPACE/NAME.")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", metavar="FILE", help="The cluster's; default: KUBECONFIG, or ~/.kube/config.")]
Context = Annotated[str | None, typer.Option("--context", metavar="NAME", help="The context of the kubeconfig; default: its current one.")]
Local = Annotated[bool, typer.Option("--local", help="This machine's agent, also where a cluster is configured.")]

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Place:
    """Where sandboxes are looked for, as far as options say."""

    kubeconfig: str | None = None
    context: str | None = None
    is_local: bool = False


_place: contextvars.ContextVar[Place] = contextvars.ContextVar("place", default=Place())  # noqa: B039 - it is frozen
_EXTRA = (("kubeconfig", Kubeconfig, None), ("context", Context, None), ("local", Local, False))


def with_place(command: Callable[..., Any]) -> Callable[..., Any]:
    """*command* with --kubeconfig, --context and --local, which `connect` minds."""
    signature = inspect.signature(command, eval_str=True)
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind) for name, kind, value in _EXTRA]

    @functools.wraps(command)
    def placed(*args: Any, **given: Any) -> Any:
        _place.set(Place(kubeconfig=given.pop("kubeconfig"), context=given.pop("context"), is_local=given.pop("local")))
        return command(*args, **given)

    placed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    return placed


def is_cluster(socket: str | None) -> bool:
    """Whether these options lead to an API server: a socket or --local does not, a kubeconfig does, and so does one that is just there."""
    place = _place.get()
    if place.kubeconfig or place.context:
        if place.is_local or socket:
            raise typer.BadParameter("a cluster or this machine's agent, not both", param_hint="--local")
        return True
    return not place.is_local and socket is None and not os.environ.get("SKERRY_SOCKET") and kubeconfig.is_configured()


def connect(socket: str | None, namespace: str | None) -> Client:
    """The client for these options; nothing is opened yet."""
    place = _place.get()
    if is_cluster(socket):
        return client.connect(kubeconfig_path=place.kubeconfig, context=place.context, namespace=namespace)
    return Client(socket, namespace=namespace or DEFAULT_NAMESPACE)


def split(name: str, namespace: str | None) -> tuple[str, str]:
    """Namespace and name of what a person typed; an empty namespace is the client's own."""
    before, slash, after = name.partition("/")
    return (before, after) if slash else (namespace or "", name)
