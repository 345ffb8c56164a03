"""Commands for the node's images: what is there, bringing in, taking out."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from skerry.cli import examples, options, output, pulling, running, words
from skerry.errors import Refused, SkerryError

app = typer.Typer(help="Images on this node.", no_args_is_help=True, rich_markup_mode=None)


@app.command("import", cls=words.Command, epilog=examples.render("image import"))
def import_(
    path: Annotated[str, typer.Argument(metavar="PATH", help="OCI layout (directory or tar), or a docker-archive.")],
    reference: Annotated[str | None, typer.Argument(metavar="[REFERENCE]", help="Its name here; default: those that they carry.")] = None,
    socket: options.Socket = None,
) -> None:
    """Import images from an OCI layout or a docker-archive.

    They go into the node's store; every digest is verified.
    """
    if not os.path.exists(path):
        raise SkerryError(f"{path}: no such file or directory", hint="an image of a registry is fetched: skerry image pull REFERENCE")
    if sys.stderr.isatty():
        print(f"importing {path} ...", file=sys.stderr)
    found = options.connect(socket, None).import_image(path, reference=reference)
    for image in found.get("items") or [found]:
        print(f"{image['reference']}   {image['digest']}")


app.command("pull", cls=words.Command, epilog=examples.render("image pull"))(pulling.pull)


@app.command("ls", cls=words.Command, epilog=examples.render("image ls"))
def ls(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only references.")] = False,
    form: Annotated[output.Format, typer.Option("--output", "-o", help="How to print.", show_default=False)] = output.Format.TABLE,
    socket: options.Socket = None,
) -> None:
    """List the images in the node's store."""
    images = options.connect(socket, None).images()
    if quiet or form is output.Format.NAME:
        for image in images:
            print(image["reference"])
    elif form in {output.Format.JSON, output.Format.YAML}:
        output.print_data({"items": images if form is output.Format.JSON else list(images)}, form)
    else:
        is_wide = form is output.Format.WIDE
        rows = [
            (
                image["reference"],
                image["digest"] if is_wide else image["digest"].removeprefix("sha256:")[:12],
                str(image["layers"]),
                output.render_bytes(image["sizeBytes"]),
                output.render_age(image.get("created")),
            )
            for image in images
        ]
        output.print_table(("REFERENCE", "DIGEST", "LAYERS", "SIZE", "AGE"), rows)


@app.command("rm", cls=words.Command, epilog=examples.render("image rm"))
def rm(
    references: Annotated[list[str], typer.Argument(metavar="REFERENCE...", help="As in `skerry image ls`.")],
    socket: options.Socket = None,
) -> None:
    """Remove images from the node's store.

    Layers that no other image uses go with them.
    """
    client = options.connect(socket, None)
    is_failed = False
    for reference in references:
        try:
            client.remove_image(reference)
        except Refused as error:
            output.print_error(f"{reference}: {error}")
            is_failed = True
        else:
            print(reference)
    if is_failed:
        raise typer.Exit(running.FAILED)
