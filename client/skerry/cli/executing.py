"""Commands that reach into a running sandbox: exec, kill."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.cli import lifecycle, options, output, running, terminal, variables

if TYPE_CHECKING:
    from skerry.streaming import End


def execute(  # noqa: PLR0913, PLR0917 - one for each option
    name: options.Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="The program and its arguments.")] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Pass our input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and print its id.")] = False,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Set a variable, or pass ours on.")] = None,
    env_file: Annotated[list[str] | None, typer.Option("--env-file", metavar="FILE", help="Variables from a file; -e wins over it.")] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", metavar="PATH", help="Working directory.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="Whom to run as.")] = None,
    exec_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="A name for it; without a command: attach to that one.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Kill it after this time.")] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Run a program in a running sandbox. Its exit code is ours.

    With -t, Ctrl-P Ctrl-Q detaches: the program goes on. One that was given an id also goes on when we are cut off;
    attach again with --id and no command. Without -t, INT, TERM, HUP and QUIT are passed on.
    """
    space, own_name = options.split(name, namespace)
    client = options.connect(socket, namespace)
    if not command and exec_id is None:
        raise typer.BadParameter("name the program to run behind the sandbox", param_hint="COMMAND")
    if tty and not detach and not os.isatty(0):
        raise typer.BadParameter("our input is not a terminal; leave -t out", param_hint="--tty")
    try:
        given_env = variables.collect(env_file or (), env or (), os.environ)
    except variables.BadVariableError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from error
    if detach:
        given = {"tty": "true" if tty else None, "env": given_env, "user": user, "workingDir": workdir, "timeout": timeout}
        print(client.start_exec(own_name, command or (), exec_id=exec_id, namespace=space, **given))
        return
    stream = client.open_exec(
        own_name, command or (), stdin=interactive, tty=tty, env=given_env, user=user, workdir=workdir, exec_id=exec_id, timeout_seconds=timeout,
        size=terminal.size() if tty else None, namespace=space,
    )  # fmt: skip
    is_attaching = not command
    if is_attaching and os.isatty(1):
        stream.resize(*terminal.size())
    try:
        end = terminal.join(stream, has_input=interactive, has_terminal=tty)
    finally:
        stream.close()
    raise typer.Exit(finish(end))


def kill(
    names: options.Names,
    signal: Annotated[str, typer.Option("--signal", "-s", metavar="SIGNAL", help="A name or number.")] = "KILL",
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Send a signal to the first process of sandboxes. A restart policy may start them again: `skerry stop` does not."""
    client = options.connect(socket, namespace)
    lifecycle.each(names, namespace, lambda space, name: client.kill(name, signal=signal, namespace=space))


def finish(end: End | None) -> int:
    """The exit code for how a stream ended: the program's, 0 after detaching, 125 when nobody knows."""
    if end is None:
        return 0
    if end.has_timed_out or end.exit_code is None:
        output.print_error(end.message)
    return running.FAILED if end.exit_code is None else end.exit_code
