"""`skerry build`: the context goes up, progress comes to stderr as docker's users know it, the image's name and digest to stdout."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from skerry import building
from skerry.cli import options, output, running
from skerry.errors import SkerryError


class Network(enum.StrEnum):
    """What `--network` takes."""

    NONE = "none"
    DEFAULT = "default"


def build(  # noqa: PLR0913, PLR0917 - one parameter per option
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The build context.")],
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", metavar="NAME[:TAG]", help="The image's name; several are fine.")] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", metavar="FILE", help="Dockerfile; default: DIR/Dockerfile; - is stdin.")] = None,
    build_arg: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="NAME[=VALUE]", help="Give an ARG its value; without one, from here.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="STAGE", help="Build this stage and what it needs.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do every step again.")] = False,
    network: Annotated[Network, typer.Option("--network", help="What RUN reaches; none unless asked for.")] = Network.NONE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the digest only.")] = False,
    form: Annotated[output.DataFormat | None, typer.Option("--output", "-o", help="Print the image as data.")] = None,
    socket: options.Socket = None,
) -> None:
    """Build an image from a Dockerfile, on the node and into its store.

    Every RUN is a sandbox of its own, without a network unless one is asked for. With SOURCE_DATE_EPOCH in the
    environment the same input gives the same digest.
    """
    wanted = building.Options(
        tags=tuple(tag or ()), target=target, arguments=_parse_arguments(build_arg or (), os.environ), use_cache=not no_cache,
        has_network=network is Network.DEFAULT, source_date_epoch=_parse_epoch(os.environ.get("SOURCE_DATE_EPOCH")),
    )  # fmt: skip
    if not os.path.isdir(directory):
        raise SkerryError(f"{directory}: no such directory", hint="name the directory that holds the files to COPY")
    content = sys.stdin.buffer.read(1 << 20) if file == "-" else building.read_dockerfile(directory, file)
    rules = building.read_rules(directory, None if file == "-" else file)
    events = options.connect(socket, None).build(directory, dockerfile=content, rules=rules, options=wanted)
    try:
        image = _watch(events, is_quiet=quiet)
    except building.BuildFailed as error:
        output.print_error(str(error), hint=error.hint)
        raise typer.Exit(error.exit_code or running.FAILED) from error
    if form is not None:
        output.print_data(image, form)
    else:
        print(image["digest"] if quiet else f"{image['reference']}   {image['digest']}")


def _watch(events: Iterator[Mapping[str, Any]], *, is_quiet: bool) -> Mapping[str, Any]:
    """Say what comes; the image at the end."""
    for event in events:
        if event["event"] == "done":
            image: Mapping[str, Any] = event["image"]
            return image
        if not is_quiet:
            _say(event)
    raise SkerryError("the build ended without a word")


def _say(event: Mapping[str, Any]) -> None:
    match event["event"]:
        case "started":
            print(output.plain(f"STEP {event['step']}/{event['steps']}: {event['text']}"), file=sys.stderr)
        case "cached":
            print("--> cached", file=sys.stderr)
        case "sealed":
            size = output.render_bytes(event["sizeBytes"])
            print(f"--> layer {event['diffID'].removeprefix('sha256:')[:12]}   {size}", file=sys.stderr)
        case "warned":
            print(output.plain(f"warning: {event['message']}"), file=sys.stderr)
        case "said":
            sys.stderr.write(event["data"])
            sys.stderr.flush()
        case _:
            pass  # an agent that is newer


def _parse_arguments(given: list[str] | tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name:
            raise typer.BadParameter("write NAME=VALUE", param_hint="--build-arg")
        if equals:
            found[name] = value
        elif name in environment:
            found[name] = environment[name]
    return found


def _parse_epoch(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise SkerryError(f"SOURCE_DATE_EPOCH must be unix seconds, not {text[:20]!r}")
    return int(text)
