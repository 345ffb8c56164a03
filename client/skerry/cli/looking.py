"""Commands that only look: ps, logs, inspect, info, version."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.cli import filters, formats, options, output, publishing, running

if TYPE_CHECKING:
    from skerry.client import Client
    from skerry_api.sandbox import Sandbox

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def ps(  # noqa: PLR0913, PLR0917 - one parameter per option
    everything: Annotated[bool, typer.Option("--all", "-a", help="Show those that have ended, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only names.")] = False,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    filter_: Annotated[
        list[str] | None, typer.Option("--filter", "-f", metavar="KEY=VALUE", help="Only those with this name, label, status, image or node.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="TEMPLATE", help="Docker's: '{{.Names}} {{.Status}}', 'table {{.ID}}\\t{{.Image}}', json.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with a line for each change.")] = False,
    form: Annotated[output.Format, typer.Option("--output", "-o", help="How to print.", show_default=False)] = output.Format.TABLE,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """List sandboxes.

    In a cluster those of one namespace; of this machine's agent those of all, unless -n is given.
    """
    try:
        wanted = filters.parse(filter_ or ())
    except filters.BadFilterError as error:
        raise typer.BadParameter(str(error), param_hint="--filter") from error
    if format_ is not None:
        try:
            formats.check(format_)
        except formats.BadFormatError as error:
            raise typer.BadParameter(str(error), param_hint="--format") from error
    client = options.connect(socket, namespace)
    is_everywhere = all_namespaces or (namespace is None and not options.is_cluster(socket))
    space = None if is_everywhere else client.namespace
    if watch:
        _watch(client, space, wanted)
        return
    found = tuple(each for each in client.list(namespace=space) if filters.matches(each, wanted) and (everything or not _has_ended(each)))
    if format_ is not None:
        for line in formats.render(format_, found):
            print(line)
    elif quiet or form is output.Format.NAME:
        for sandbox in found:
            print(_short_name(sandbox, client.namespace) if quiet else f"sandbox.skerry.dev/{sandbox.metadata.name}")
    elif form in {output.Format.JSON, output.Format.YAML}:
        from skerry_api.sandbox import render_sandbox  # noqa: PLC0415 - as the SDK does

        items = [render_sandbox(sandbox) for sandbox in found]
        output.print_data({"apiVersion": "v1", "kind": "List", "items": items}, form)
    else:
        _print_sandboxes(found, is_wide=form is output.Format.WIDE, own=client.namespace)


def logs(
    name: options.Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    tail: Annotated[str, typer.Option("--tail", metavar="LINES", help="The last so many lines, or all.")] = "all",
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="From then on: 10m, 2h, 2026-01-31T12:00:00Z.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Begin lines with their time.")] = False,
    stream: Annotated[str, typer.Option("--stream", metavar="STREAM", help="stdout, stderr or both.")] = "both",
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Print a sandbox's output.

    Its stdout goes to stdout, its stderr to stderr.
    """
    if tail != "all" and not tail.isdecimal():
        raise typer.BadParameter("must be a number of lines, or all", param_hint="--tail")
    space, own_name = options.split(name, namespace)
    pieces = options.connect(socket, namespace).logs(
        own_name,
        namespace=space,
        follow=follow,
        tail=None if tail == "all" else int(tail),
        since=None if since is None else parse_since(since, now=datetime.now(UTC)),
        timestamps=timestamps,
        stream=stream,
    )
    for piece in pieces:
        if not output.print_piece(piece.stream, piece.data):
            raise typer.Exit(128 + signal.SIGPIPE)


def inspect(
    names: options.Names,
    form: Annotated[output.DataFormat, typer.Option("--output", "-o", help="How to print.")] = output.DataFormat.JSON,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Print everything known of sandboxes.

    That is the object, and under `node` its layers, directories, processes and events.
    """
    client = options.connect(socket, namespace)
    found = []
    for name in names:
        space, own_name = options.split(name, namespace)
        found.append(client.inspect(own_name, namespace=space))
    output.print_data(found[0] if len(found) == 1 else found, form)


def info(
    form: Annotated[output.Format, typer.Option("--output", "-o", help="table, json or yaml.", show_default=False)] = output.Format.TABLE,
    socket: options.Socket = None,
) -> None:
    """Print what the agent says about itself and its machine."""
    found = options.connect(socket, None).info()
    if form in {output.Format.JSON, output.Format.YAML}:
        output.print_data(found, form)
        return
    details = found.pop("details", {})
    rows = [(str(key), _flat(value)) for key, value in {**found, **details}.items()]
    output.print_table(("WHAT", "VALUE"), rows)


def version(
    form: Annotated[output.Format, typer.Option("--output", "-o", help="table, json or yaml.", show_default=False)] = output.Format.TABLE,
    socket: options.Socket = None,
) -> None:
    """Print the versions of this command and of the agent, or of the API server."""
    from importlib import metadata  # noqa: PLC0415 - slow, and only this command needs it

    try:
        own = metadata.version("skerry")
    except metadata.PackageNotFoundError:
        own = "unknown"
    client = options.connect(socket, None)
    # The command's own version is worth printing without an agent, too.
    from skerry.errors import AgentUnavailable  # noqa: PLC0415

    try:
        agent = client.version()
    except AgentUnavailable as error:
        agent = f"none ({error})"
    other = "server" if options.is_cluster(socket) else "agent"
    if form in {output.Format.JSON, output.Format.YAML}:
        output.print_data({"client": own, other: agent}, form)
    else:
        print(f"client: {own}\n{other + ':':<8}{agent}")


def parse_since(text: str, *, now: datetime) -> str:
    """RFC 3339 for 30s, 10m, 2h, 3d before *now*; a time or unix seconds as they are. Raises typer.BadParameter."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        then = now - timedelta(**{_UNITS[match[2]]: float(match[1])})
        return then.isoformat()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        if not re.fullmatch(r"\d+(?:\.\d+)?", text):
            raise typer.BadParameter(f"{text} is no time: write it as 10m, 2h or 2026-01-31T12:00:00Z", param_hint="--since") from None
    return text


def _watch(client: Client, namespace: str | None, wanted: tuple[tuple[str, str], ...]) -> None:
    """A line for each sandbox, then one for each change that a reader would see, until somebody interrupts."""
    from skerry_api.sandbox import parse_sandbox  # noqa: PLC0415 - as above

    widths, shown = (12, 24, 12, 32, 16), dict[str, list[str]]()
    print("".join(title.ljust(width) for title, width in zip(("NAMESPACE", "NAME", "PHASE", "IMAGE", "ADDRESS"), widths, strict=True)).rstrip())
    for kind, raw in client.changes(namespace=namespace):
        sandbox = parse_sandbox(raw)
        name, phase, image, address, _ = _cells(sandbox)
        cells = [sandbox.metadata.namespace, name, "Deleted" if kind == "DELETED" else phase, image, address]
        if not filters.matches(sandbox, wanted) or shown.get(sandbox.metadata.uid) == cells:
            continue
        shown[sandbox.metadata.uid] = cells
        line = "".join(f"{output.plain(cell) or '-'} ".ljust(width) for cell, width in zip(cells, widths, strict=True))
        if not output.print_piece("stdout", f"{line.rstrip()}\n".encode()):
            return


def _print_sandboxes(found: tuple[Sandbox, ...], *, is_wide: bool, own: str) -> None:
    header = ["NAME", "PHASE", "IMAGE", "ADDRESS", "AGE", "PORTS"]
    has_namespaces = any(sandbox.metadata.namespace != own for sandbox in found)
    if is_wide:
        header += ["STARTUP", "RESTARTS", "REASON", "EXIT", "NODE", "DIGEST"]
    if has_namespaces:
        header.insert(0, "NAMESPACE")
    rows = []
    for sandbox in found:
        row = _cells(sandbox) + (_wide_cells(sandbox) if is_wide else [])
        rows.append([sandbox.metadata.namespace, *row] if has_namespaces else row)
    output.print_table(header, rows)


def _cells(sandbox: Sandbox) -> list[str]:
    metadata, status = sandbox.metadata, sandbox.status
    phase = "Terminating" if metadata.deletion_timestamp else str(status.phase or "Pending")
    age = output.render_age(metadata.creation_timestamp)
    return [metadata.name, phase, sandbox.spec.image, status.address or "", age, publishing.render_cell(sandbox)]


def _wide_cells(sandbox: Sandbox) -> list[str]:
    status = sandbox.status
    startup = status.start_duration_milliseconds
    ended = status.termination
    return [
        f"{startup} ms" if startup is not None else "",
        str(status.restarts or 0),
        _reason(sandbox),
        str(ended.exit_code) if ended is not None and ended.exit_code is not None else "",
        sandbox.spec.node_name or "",
        (status.image_digest or "").removeprefix("sha256:")[:12],
    ]


def _reason(sandbox: Sandbox) -> str:
    ready = running.find_ready(sandbox)
    return ready.reason if ready is not None and ready.status != "True" else ""


def _has_ended(sandbox: Sandbox) -> bool:
    """Whether the program has run and does not now; what waits for its start or its next one is not over."""
    ready = running.find_ready(sandbox)
    if ready is None or ready.status == "True" or ready.reason in {"BackOff", "Idle", "Paused"} or sandbox.metadata.deletion_timestamp:
        return False
    return sandbox.status.termination is not None or ready.reason == "Stopped"


def _short_name(sandbox: Sandbox, namespace: str) -> str:
    own = sandbox.metadata.namespace
    return sandbox.metadata.name if own == namespace else f"{own}/{sandbox.metadata.name}"


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_flat(item)}" for key, item in value.items())
    return ", ".join(_flat(item) for item in value) if isinstance(value, list) else str(value)
