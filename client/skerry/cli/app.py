"""The command line as a whole: its commands, and what holds for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable

import typer

from skerry.cli import building, carrying, examples, executing, images, lifecycle, looking, options, running

_EPILOG = """Exit codes: the program's own for `run`; 125 when Skerry itself failed; 2 for wrong usage.

Environment: SKERRY_SOCKET, SKERRY_NAMESPACE, NO_COLOR."""

app = typer.Typer(
    name="skerry",
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
    ("kill", executing.kill),
    ("rm", lifecycle.rm),
    ("wait", lifecycle.wait),
    ("build", building.build),
    ("export", carrying.export),
    ("commit", carrying.commit),
    ("info", looking.info),
    ("version", looking.version),
)
# What stands behind the image is the program's, options too.
app.command("run", epilog=examples.render("run"), context_settings={"allow_interspersed_args": False})(running.run)
app.command("exec", epilog=examples.render("exec"), context_settings={"allow_interspersed_args": False})(executing.execute)
for name, command in _COMMANDS:
    app.command(name, epilog=examples.render(name))(command)
for name, command in carrying.COMMANDS:
    images.app.command(name, epilog=examples.render(f"image {name}"))(command)
app.add_typer(images.app, name="image")


@app.callback()
def everywhere(context: typer.Context, socket: options.Socket = None, namespace: options.Namespace = None) -> None:
    """Take --socket and --namespace before the command and from the environment, too."""
    socket = socket or os.environ.get("SKERRY_SOCKET")
    namespace = namespace or os.environ.get("SKERRY_NAMESPACE")
    given = {key: value for key, value in (("socket", socket), ("namespace", namespace)) if value}
    image = dict.fromkeys((command.name for command in images.app.registered_commands if command.name), given)
    context.default_map = {"run": given, "exec": given, **{name: given for name, _ in _COMMANDS}, "image": image}
