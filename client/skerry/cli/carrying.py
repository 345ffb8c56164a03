"""Commands that look into images and carry them away, and that make them of sandboxes: `skerry image ...`, `skerry export`, `skerry commit`."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any

import typer

from skerry.cli import files, options, output, pulling
from skerry.errors import SkerryError

Reference = Annotated[str, typer.Argument(metavar="REFERENCE", help="As in `skerry image ls`.")]
References = Annotated[list[str], typer.Argument(metavar="REFERENCE...", help="As in `skerry image ls`.")]


class Archive(enum.StrEnum):
    """What `--format` takes."""

    DOCKER = "docker-archive"
    OCI = "oci-archive"
    DIRECTORY = "oci-dir"


def inspect(
    references: References,
    form: Annotated[output.DataFormat, typer.Option("--output", "-o", help="How to print.")] = output.DataFormat.JSON,
    socket: options.Socket = None,
) -> None:
    """Print everything known of images: digests, platform, config, layers and what made them, who uses them."""
    client = options.connect(socket, None)
    found = [client.inspect_image(reference) for reference in references]
    output.print_data(found[0] if len(found) == 1 else found, form)


def history(
    reference: Reference,
    form: Annotated[output.Format, typer.Option("--output", "-o", help="How to print.", show_default=False)] = output.Format.TABLE,
    socket: options.Socket = None,
) -> None:
    """Show how an image came about, newest step first."""
    steps = options.connect(socket, None).image_history(reference)[::-1]
    if form in {output.Format.JSON, output.Format.YAML}:
        output.print_data({"items": list(steps)}, form)
        return
    width = None if form is output.Format.WIDE else 80
    rows = [
        (
            output.render_age(step["created"]),
            "" if step["isEmpty"] else output.render_bytes(step["sizeBytes"]),
            step["diffId"].removeprefix("sha256:")[: None if form is output.Format.WIDE else 12],
            _shorten(step["instruction"], width),
            step["comment"],
        )
        for step in steps
    ]
    output.print_table(("AGE", "SIZE", "LAYER", "INSTRUCTION", "COMMENT"), rows)


def tag(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An image that is here.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Its new name; the old one stays.")],
    socket: options.Socket = None,
) -> None:
    """Give an image a second name."""
    print(options.connect(socket, None).tag_image(source, target)["reference"])


def save(
    references: References,
    target: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; `-` or nothing: stdout.")] = None,
    form: Annotated[Archive, typer.Option("--format", help="docker-archive is an OCI layout too.")] = Archive.DOCKER,
    socket: options.Socket = None,
) -> None:
    """Write images to a tar that `docker load`, podman, skopeo and `skerry image import` read; digests stay."""
    client = options.connect(socket, None)
    if form is Archive.DIRECTORY:
        if target in {None, "-"}:
            raise SkerryError("a directory needs a name", hint="give one: -o DIRECTORY")
        assert target is not None
        files.write_layout(client.save_images(references, form=Archive.OCI), target)
    else:
        files.write(client.save_images(references, form=form), target)


def push(
    reference: Reference,
    target: Annotated[str | None, typer.Argument(metavar="[TARGET]", help="Where to; default: where its name says.")] = None,
    auth_file: Annotated[
        str | None, typer.Option("--auth-file", metavar="FILE", help="A Docker config.json with credentials, for this push.")
    ] = None,
    socket: options.Socket = None,
) -> None:
    """Push an image to a registry; what is there already is not sent, and the digest stays."""
    client = options.connect(socket, None)
    image: dict[str, Any] = {}
    is_shown = sys.stderr.isatty()
    for found in client.push_image(reference, target, docker_config=pulling.read_auth_file(auth_file)):
        image = found.get("image") or image
        blobs = (found.get("progress") or {}).get("blobs", ())
        if is_shown and blobs:
            done, total = (sum(blob[key] for blob in blobs) for key in ("doneBytes", "sizeBytes"))
            print(f"\r{output.render_bytes(done)} of {output.render_bytes(total)}\x1b[K", end="", file=sys.stderr, flush=True)
    if is_shown:
        print("\r\x1b[K", end="", file=sys.stderr)
    print(f"{image['reference']}   {image['digest']}")


def prune(
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    socket: options.Socket = None,
) -> None:
    """Remove every image that no sandbox of this node uses."""
    client = options.connect(socket, None)
    if not dry_run and not force:
        found = client.prune_images(dry_run=True)["references"]
        if found and not (sys.stdin.isatty() and typer.confirm(f"Remove {len(found)} images: {', '.join(found[:10])}?", err=True)):
            raise SkerryError("nothing was removed", hint="see what would go: --dry-run; do not ask: --force")
    done = client.prune_images(dry_run=dry_run)
    for reference in done["references"]:
        print(reference)
    print(f"{'would free' if dry_run else 'freed'} {output.render_bytes(done['freedBytes'])}", file=sys.stderr)


def export(
    name: options.Name,
    target: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; `-` or nothing: stdout.")] = None,
    socket: options.Socket = None,
    namespace: options.Namespace = None,
) -> None:
    """Write a sandbox's root filesystem to a tar, whether it runs or not."""
    namespace, name = options.split(name, namespace)
    files.write(options.connect(socket, namespace).export(name), target)


def commit(
    name: options.Name,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="The new image's name.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--change", "-c", metavar="INSTRUCTION", help="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, WORKDIR, ...; repeat it."),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="A comment for its history.")] = "",
    author: Annotated[str, typer.Option("--author", "-a", metavar="TEXT", help="Who made it.")] = "",
    socket: options.Socket = None,
    namespace: options.Namespace = None,
) -> None:
    """Make an image of what a sandbox changed: its writable layer on its image."""
    namespace, name = options.split(name, namespace)
    done = options.connect(socket, namespace).commit(name, reference, changes=changes or (), message=message, author=author)
    print(f"{done['reference']}   {done['digest']}")
    for each in done["dropped"]:
        print(f"left out {output.plain(each['path'])}: {each['reason']}", file=sys.stderr)
    if done["droppedCount"] > len(done["dropped"]):
        print(f"left out {done['droppedCount'] - len(done['dropped'])} more", file=sys.stderr)


COMMANDS = (("inspect", inspect), ("history", history), ("tag", tag), ("save", save), ("push", push), ("prune", prune))
"""Below `skerry image`."""


def _shorten(text: str, width: int | None) -> str:
    line = " ".join(text.split())
    return line if width is None or len(line) <= width else line[: width - 3] + "..."
