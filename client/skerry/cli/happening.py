"""Commands about what happens: events, restart; and what is not there, said so: rename; completion for shells."""

from __future__ import annotations

from typing import Annotated

import typer

from skerry.cli import lifecycle, options, output, running
from skerry.errors import Refused

_SLACK_SECONDS = 60.0
_SHELLS = ("bash", "zsh", "fish")


def events(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only of this sandbox.")] = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    form: Annotated[output.Format, typer.Option("--output", "-o", help="table, json or yaml.", show_default=False)] = output.Format.TABLE,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """List what happened to sandboxes, oldest first."""
    client = options.connect(socket, namespace)
    space, own_name = options.split(name, namespace) if name is not None else (namespace or "", None)
    found = client.events(own_name, namespace=None if all_namespaces else space or client.namespace)
    if form in {output.Format.JSON, output.Format.YAML}:
        import dataclasses  # noqa: PLC0415 - only this format needs it

        output.print_data({"items": [dataclasses.asdict(each) for each in found]}, form)
        return
    rows = [
        (
            output.render_age(each.time) + (f" (x{each.count})" if each.count > 1 else ""),
            "Warning" if each.is_warning else "Normal",
            each.reason,
            f"{each.namespace}/{each.name}" if all_namespaces else each.name,
            each.message,
        )
        for each in found
    ]
    output.print_table(("LAST SEEN", "TYPE", "REASON", "SANDBOX", "MESSAGE"), rows)


def restart(
    names: options.Names,
    timeout: Annotated[int | None, typer.Option("--timeout", "-t", min=0, max=86_400, help="Seconds until KILL; kept as its grace period.")] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Stop sandboxes and start them again, with their files."""
    client = options.connect(socket, namespace)

    def restart_one(space: str, name: str) -> None:
        sandbox = client.stop(name, namespace=space, grace_seconds=timeout)
        limit = sandbox.spec.termination_grace_period_seconds + _SLACK_SECONDS
        client.wait(name, namespace=space, condition="Finished", timeout_seconds=limit)
        client.start(name, namespace=space)
        started = client.wait(name, namespace=space, condition="Ready", timeout_seconds=_SLACK_SECONDS)
        if started is not None and (problem := running.find_problem(started)) is not None:
            raise Refused(f"could not be started: {problem}", status=0, reason="NotStarted")

    lifecycle.each(names, namespace, restart_one)


def rename(
    name: options.Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="What it cannot be called.")],
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Not possible: the name of a Kubernetes object is for its life. Says what to do instead."""
    _ = options.split(name, namespace), socket
    raise Refused(
        f"{name} cannot be renamed: a sandbox is a Kubernetes object, and its name is for its life", status=405, reason="MethodNotAllowed",
        hint=f"run a new one: skerry run --name {new_name} ...; to find it by another word give it a label: skerry run -l NAME=VALUE ...",
    )  # fmt: skip


def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a script that completes commands and options in a shell."""
    if shell not in _SHELLS:
        raise typer.BadParameter(f"{shell} is not {', '.join(_SHELLS)}", param_hint="SHELL")
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - typer offers it only by an option that guesses the shell

    print(get_completion_script(prog_name="skerry", complete_var="_SKERRY_COMPLETE", shell=shell))
