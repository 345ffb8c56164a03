"""A first process on our terminal or our pipes: `skerry run -it`, `skerry attach`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.cli import executing, options, output, terminal
from skerry.errors import AgentUnavailable

if TYPE_CHECKING:
    from skerry import streaming
    from skerry.client import Client

_RECONNECT_SECONDS = 30.0
_NEW_AGENT_SECONDS = 0.2


def attach(
    name: options.Name,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Watch only: pass no input on.")] = False,
    sig_proxy: Annotated[bool, typer.Option("--sig-proxy/--no-sig-proxy", help="Pass INT, TERM, HUP and QUIT on.")] = True,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Follow the output of a sandbox from now on, type to it where it was run with -i, and end with its exit code.

    Ctrl-P Ctrl-Q detaches from one that has a terminal. Signals are passed on to one that has none; with --no-sig-proxy, Ctrl-C only leaves it.
    """
    space, own_name = options.split(name, namespace)
    client = options.connect(socket, namespace)
    spec = client.get(own_name, namespace=space).spec
    has_input = spec.stdin and not no_stdin
    stream = client.open_attach(own_name, stdin=has_input, namespace=space)
    if spec.tty and terminal.is_terminal():
        _redraw(stream)
    try:
        end = terminal.join(stream, has_input=has_input, has_terminal=spec.tty and has_input and os.isatty(0), passes_signals=sig_proxy)
    finally:
        stream.close()
    raise typer.Exit(_finish(end, own_name))


def join_new(client: Client, name: str, *, has_input: bool, has_terminal: bool) -> bool:
    """Give the sandbox *name*, which has just been started, our input and terminal until it ends; False when the user has detached.

    Where our terminal is joined, that survives a replacement of the agent. Raises AgentUnavailable.
    """
    seen = {"stdout": 0, "stderr": 0}
    deadline = None
    while True:
        try:
            stream = client.open_attach(name, stdin=has_input, stdin_once=has_input and not has_terminal, cursor=seen)
            deadline = None
            try:
                if has_terminal and terminal.is_terminal():
                    stream.resize(*terminal.size())
                return terminal.join(stream, has_input=has_input, has_terminal=has_terminal, seen=seen) is not None
            finally:
                stream.close()
        except AgentUnavailable:
            deadline = deadline or time.monotonic() + _RECONNECT_SECONDS
            if not has_terminal or time.monotonic() > deadline:
                raise
            time.sleep(_NEW_AGENT_SECONDS)


def say_detached(name: str) -> None:
    """What the user can do next."""
    output.print_note(f"{name} goes on; attach to it again: skerry attach {name}")


def _redraw(stream: streaming.Stream) -> None:
    """Another size and then the right one: what fills the screen draws it anew."""
    columns, rows = terminal.size()
    stream.resize(columns, rows + 1)
    stream.resize(columns, rows)


def _finish(end: streaming.End | None, name: str) -> int:
    if end is None:
        say_detached(name)
    return executing.finish(end)
