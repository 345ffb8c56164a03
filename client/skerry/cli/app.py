"""The command line as a whole: its commands, and what holds for all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from skerry.cli import images, lifecycle, looking, options, running

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

app.command("run", context_settings={"allow_interspersed_args": False})(running.run)
app.command("ps")(looking.ps)
app.command("logs")(looking.logs)
app.command("inspect")(looking.inspect)
app.command("stop")(lifecycle.stop)
app.command("start")(lifecycle.start)
app.command("rm")(lifecycle.rm)
app.command("wait")(lifecycle.wait)
app.add_typer(images.app, name="image")
app.command("info")(looking.info)
app.command("version")(looking.version)


@app.callback()
def everywhere(
    context: typer.Context, socket: options.Socket = None, namespace: options.Namespace = None
) -> None:
    """Take --socket and --namespace before the command too."""
    given = {key: value for key, value in (("socket", socket), ("namespace", namespace)) if value is not None}
    names = ("run", "ps", "logs", "inspect", "stop", "start", "rm", "wait", "info", "version")
    image = dict.fromkeys(("import", "ls", "rm"), given)
    context.default_map = {**dict.fromkeys(names, given), "image": image}


