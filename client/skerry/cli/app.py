"""The command line as a whole: its commands, and what holds for all of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import typer

from skerry.cli import (
    building,
    carrying,
    copies,
    examples,
    executing,
    forwarding,
    happening,
    images,
    joining,
    lifecycle,
    looking,
    measuring,
    nodes,
    options,
    publishing,
    running,
    words,
)

_EPILOG = """Exit codes: the program's own for `run` and `exec`; 127 when it is not there, 126 when it cannot be run; 125 when Skerry
itself failed; 2 for wrong usage.

Environment: KUBECONFIG, SKERRY_SOCKET, SKERRY_NAMESPACE, NO_COLOR."""

app = typer.Typer(
    name="skerry",
    cls=words.Commands,
    help="Lightweight sandboxes: isolated processes that start within milliseconds.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help needs no rich, which would double the time of every --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("ps", looking.ps),
    ("logs", looking.logs),
    ("inspect", looking.inspect),
    ("stop", lifecycle.stop),
    ("start", lifecycle.start),
    ("restart", happening.restart),
    ("attach", joining.attach),
    ("stats", measuring.stats),
    ("top", measuring.top),
    ("pause", lifecycle.pause),
    ("unpause", lifecycle.unpause),
    ("kill", executing.kill),
    ("cp", copies.cp),
    ("port", publishing.port),
    ("port-forward", forwarding.port_forward),
    ("rm", lifecycle.rm),
    ("wait", lifecycle.wait),
    ("build", building.build),
    ("export", carrying.export),
    ("commit", carrying.commit),
    ("events", happening.events),
    ("rename", happening.rename),
    ("nodes", nodes.nodes),
    ("info", looking.info),
    ("version", looking.version),
)
# What stands behind the image is the program's, options too.
app.command("run", cls=words.Command, epilog=examples.render("run"), context_settings={"allow_interspersed_args": False})(running.run)
app.command("exec", cls=words.Command, epilog=examples.render("exec"), context_settings={"allow_interspersed_args": False})(executing.execute)
for name, command in _COMMANDS:
    app.command(name, cls=words.Command, epilog=examples.render(name))(command)
for name, command in carrying.COMMANDS:
    images.app.command(name, cls=words.Command, epilog=examples.render(f"image {name}"))(command)
app.add_typer(images.app, name="image")
app.add_typer(nodes.app, name="node")


for registered in (*app.registered_commands, *images.app.registered_commands, *nodes.app.registered_commands):
    assert registered.callback is not None
    registered.callback = options.with_place(registered.callback)


app.command("completion", cls=words.Command, epilog=examples.render("completion"))(happening.completion)


@app.callback()
def everywhere(
    context: typer.Context,
    socket: options.Socket = None,
    namespace: options.Namespace = None,
    kubeconfig: options.Kubeconfig = None,
    kube_context: options.Context = None,
    local: options.Local = False,
) -> None:
    """Take what every command takes before the command and from the environment, too."""
    namespace = namespace or os.environ.get("SKERRY_NAMESPACE")
    values = {"socket": socket, "namespace": namespace, "kubeconfig": kubeconfig, "context": kube_context, "local": local}
    given = {key: value for key, value in values.items() if value}
    inner = {name: _each_of(group, given) for name, group in (("image", images.app), ("node", nodes.app))}
    context.default_map = {**_each_of(app, given), **inner, **dict.fromkeys(words.ALIASES, given)}


@functools.cache
def built() -> Callable[..., Any]:
    """The command line, to be called with *args* and *prog_name*; putting it together takes longer than most commands, so once a process."""
    return typer.main.get_command(app)


def _each_of(group: typer.Typer, given: Mapping[str, object]) -> dict[str, object]:
    return {command.name: given for command in group.registered_commands if command.name}
