"""`skerry image pull`: the agent fetches, we show how far it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from skerry.cli import options, output
from skerry.errors import SkerryError

Show = Callable[[dict[str, Any]], None]


def pull(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="By tag or digest; busybox is docker.io/library/busybox:latest.")],
    auth_file: Annotated[
        str | None, typer.Option("--auth-file", metavar="FILE", help="A Docker config.json with credentials, for this pull.")
    ] = None,
    form: Annotated[output.Format, typer.Option("--output", "-o", help="How to print.", show_default=False)] = output.Format.TABLE,
    socket: options.Socket = None,
) -> None:
    """Pull an image from its registry into the node's store; every digest is verified before anything is visible."""
    client = options.connect(socket, None)
    image: dict[str, Any] = {}
    with _progress(reference) as show:
        for found in client.pull_image(reference, docker_config=read_auth_file(auth_file)):
            show(found.get("progress") or {})
            image = found.get("image") or image
    if form in {output.Format.JSON, output.Format.YAML}:
        output.print_data(image, form)
    elif form is output.Format.NAME:
        print(image["reference"])
    else:
        print(f"{image['reference']}   {image['digest']}")


def read_auth_file(path: str | None) -> str | None:
    """The text of a Docker config; None without one. Raises SkerryError."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SkerryError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def _progress(reference: str) -> Iterator[Show]:
    """A bar for each layer on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Imported here: they cost more than any other command does.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}
        whole = bars.add_task(reference, total=None)

        def show(progress: dict[str, Any]) -> None:
            for layer in progress.get("layers", ()):
                digest = layer["digest"]
                if digest not in tasks:
                    tasks[digest] = bars.add_task(digest.removeprefix("sha256:")[:12], total=layer["sizeBytes"])
                is_over = layer["isDone"] or layer["wasHere"]
                bars.update(tasks[digest], completed=layer["sizeBytes"] if is_over else layer["receivedBytes"], visible=not layer["wasHere"])
            if progress.get("totalBytes"):
                bars.update(whole, total=progress["totalBytes"], completed=progress["receivedBytes"])

        yield show
