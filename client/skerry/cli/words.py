"""Docker's words: commands that are called otherwise here, and options that are not there, each with what to type instead."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

ALIASES = {
    "images": ("image", "ls"),
    "rmi": ("image", "rm"),
    "pull": ("image", "pull"),
    "push": ("image", "push"),
    "tag": ("image", "tag"),
    "save": ("image", "save"),
    "load": ("image", "import"),
    "history": ("image", "history"),
}
"""They work, and `skerry --help` does not list them."""
COMMANDS = {
    "create": "to make a sandbox is to start it: skerry run -d IMAGE",
    "login": "give credentials to a pull or push: --auth-file FILE, a docker config.json",
    "container": "sandboxes have the short commands: skerry ps, skerry run, skerry rm",
    "diff": "for all files of a sandbox: skerry export NAME | tar -t",
    "compose": "write manifests for it, see docs/standalone.md",
    "volume": "volumes live and go with their sandbox: skerry run -v NAME:PATH IMAGE",
    "network": "a sandbox has a network of its own: skerry run --network bridge or none",
    "update": "change its manifest, see docs/sandbox.md",
}
_NO_PORTS = "name each port: -p PORT:PORT; or reach it without one: skerry port-forward NAME LOCAL:PORT"
_NO_MOUNTS = "write it as -v [SOURCE:]PATH[:ro]; volumes of a given size stand in a manifest, see docs/sandbox.md"
OPTIONS = {
    "run": {
        **dict.fromkeys(("-P", "--publish-all"), _NO_PORTS),
        **dict.fromkeys(("--mount", "--tmpfs"), _NO_MOUNTS),
        "--privileged": "a sandbox is never privileged; single capabilities stand in a manifest, see docs/sandbox.md",
        **dict.fromkeys(("--cap-add", "--cap-drop"), "capabilities stand in a manifest, see docs/sandbox.md"),
    },
    "load": {**dict.fromkeys(("-i", "--input"), "leave it out: skerry load FILE")},
    "inspect": {**dict.fromkeys(("-f", "--format"), "take it from the JSON: skerry inspect NAME | jq .status")},
    "events": {**dict.fromkeys(("-f", "--follow", "--since", "--until"), "to watch sandboxes change: skerry ps --watch")},
}
"""By command, what to do where docker has the option."""


class Command(TyperCommand):
    """A command whose usage reads as docker's, and that has an answer to docker's options."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer's own class of contexts
        """`[OPTIONS] NAME...`: no braces, and dots once."""
        words = [_name(param) for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *words]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As typer does; an option of docker's that is not here is answered with the next step."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)
            hint = OPTIONS.get(ctx.info_name or "", {}).get(option or "")
            if hint is None:
                raise
            ctx.fail(f"No such option: {option}: {hint}")


class Commands(TyperGroup):
    """The commands, docker's other words for them, and an answer to those that have no counterpart."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """As typer does; a word of docker's that is not here is answered with the next step."""
        if args[0] in COMMANDS:
            ctx.fail(f"No such command '{args[0]}': {COMMANDS[args[0]]}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """The command of this name; an alias leads to a command of a group."""
        group, word = ALIASES.get(cmd_name, (cmd_name, ""))
        found = super().get_command(ctx, group)
        return found.get_command(ctx, word) if word and isinstance(found, TyperGroup) else found


def _name(argument: Any) -> str:
    """How an argument is written in a usage line: as its metavar has it."""
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"
