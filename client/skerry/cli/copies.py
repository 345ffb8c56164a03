"""`skerry cp`: files and trees between this machine and a sandbox."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from skerry import archives, copying
from skerry.cli import options, output, running

if TYPE_CHECKING:
    from skerry.client import Client

_CHUNK = 1 << 18


def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="PATH, NAME:PATH, or - for a tar from our input.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="NAME:PATH, PATH, or - for a tar to our output.")],
    archive: Annotated[bool, typer.Option("--archive", "-a", help="Keep owners, and set-id bits, too.")] = False,
    follow_link: Annotated[bool, typer.Option("--follow-link", "-L", help="Copy what a link SOURCE points to.")] = False,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="Whom to read or write as inside.")] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Copy files or trees into or out of a running sandbox. One of SOURCE and TARGET is NAME:PATH.

    As with docker: into a directory that is there, a copy keeps its name; with SOURCE/. only what is in it is copied.
    Modes, times, links and holes are kept. It is done inside the sandbox, as its user.
    """
    client = options.connect(socket, namespace)
    inside, outside = _split(source), _split(target)
    if (inside is None) == (outside is None):
        raise typer.BadParameter("write NAME:PATH for one of SOURCE and TARGET; a local path with a colon as ./A:B", param_hint="SOURCE")
    opened = _opener(client, (inside or outside or ("", ""))[0], namespace, user)
    problems: list[str] = []

    def warn(problem: str) -> None:
        problems.append(problem)
        output.print_error(problem)

    try:
        if inside is not None:
            _out(opened, inside[1], target, archive=archive, follow_link=follow_link, warn=warn)
        elif outside is not None:
            _in(opened, source, outside[1], archive=archive, follow_link=follow_link, warn=warn)
    except OSError as error:
        output.print_error(f"{error.filename or target}: {error.strerror}")
        raise typer.Exit(running.FAILED) from None
    if problems:
        raise typer.Exit(running.FAILED)


def _out(opened: copying.Open, path: str, target: str, *, archive: bool, follow_link: bool, warn: archives.Warn) -> None:
    if target == "-":
        for piece in copying.receive(opened, path, follows=follow_link, warn=warn):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    else:
        copying.copy_out(opened, path, target, keeps_owners=archive, follows=follow_link, warn=warn)


def _in(opened: copying.Open, source: str, path: str, *, archive: bool, follow_link: bool, warn: archives.Warn) -> None:
    if source == "-":
        copying.send(opened, path, _read_input(), keeps_owners=archive, warn=warn)
    else:
        copying.copy_in(opened, source, path, keeps_owners=archive, follows=follow_link, warn=warn)


def _read_input() -> Iterator[bytes]:
    while data := os.read(0, _CHUNK):
        yield data


def _opener(client: Client, name: str, namespace: str | None, user: str | None) -> copying.Open:
    space, own_name = options.split(name, namespace)
    return functools.partial(client.open_copy, own_name, namespace=space, user=user)


def _split(text: str) -> tuple[str, str] | None:
    """Name and path of NAME:PATH; None for a local path, which a `/`, `.` or `-` begins, or which has no colon."""
    name, colon, path = text.partition(":")
    if not colon or not name or text[0] in "/.-" or name.count("/") > 1:
        return None
    return name, path or "/"
