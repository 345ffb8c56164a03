"""Commands about what sandboxes use, and about what they do now: stats, top, attach."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skerry.cli import options, output
from skerry.errors import Refused

if TYPE_CHECKING:
    from skerry.client import Client

_SECOND = 1.0
_HEADER = (
    "NAMESPACE",
    "NAME",
    "CPU",
    "THROTTLED",
    "MEMORY / LIMIT",
    "CACHE",
    "PEAK",
    "PIDS",
    "NET IN / OUT",
    "DROPS",
    "DENIED",
    "IO READ / WRITE",
    "DISK / LIMIT",
)


def stats(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these; default: all that run.")] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print once.")] = False,
    form: Annotated[output.Format, typer.Option("--output", "-o", help="table, json or yaml.", show_default=False)] = output.Format.TABLE,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Show what sandboxes use, anew every second until Ctrl-C. CPU is in per cent of one processor."""
    client = options.connect(socket, namespace)
    wanted = [options.split(name, namespace) for name in names] if names else None
    before = _read(client, wanted, namespace)
    if form in {output.Format.JSON, output.Format.YAML}:
        output.print_data({"items": list(before.values())}, form)
        return
    while True:
        time.sleep(_SECOND)
        now = _read(client, wanted, namespace)
        if sys.stdout.isatty() and not no_stream:
            print("\x1b[H\x1b[2J", end="")
        rows = [_row(each, before.get(uid)) for uid, each in now.items()]
        skipped = 0 if any(row[0] != client.namespace for row in rows) else 1  # as in ps: one namespace needs no column
        output.print_table(_HEADER[skipped:], [row[skipped:] for row in rows])
        if no_stream:
            return
        before = now


def top(name: options.Name, namespace: options.Namespace = None, socket: options.Socket = None) -> None:
    """List the processes in a sandbox. PID is the one inside, HOST PID the one on its node."""
    space, own_name = options.split(name, namespace)
    found = options.connect(socket, namespace).top(own_name, namespace=space)
    rows = [
        (
            str(each["pidInside"]), str(each["pid"]), str(each["user"]), each["state"], _render_seconds(each["cpuSeconds"]),
            output.render_bytes(each["residentBytes"]), each["command"],
        )
        for each in sorted(found, key=lambda each: each["pidInside"])
    ]  # fmt: skip
    output.print_table(("PID", "HOST PID", "USER", "STATE", "TIME", "MEMORY", "COMMAND"), rows)


def _read(client: Client, wanted: list[tuple[str, str]] | None, namespace: str | None) -> dict[str, dict[str, Any]]:
    """The figures by uid. One that was named has to run; of all, those that do are shown."""
    if wanted is not None:
        found = [client.usage(name, namespace=space) for space, name in wanted]
        return {each["uid"]: each for each in found}
    figures = {}
    for sandbox in client.list(namespace=namespace):
        try:
            each = client.usage(sandbox.metadata.name, namespace=sandbox.metadata.namespace)
        except Refused:
            continue
        figures[each["uid"]] = each
    return figures


def _row(now: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, ...]:
    """One line of the table; what the agent does not count is empty."""
    memory, network, io, disk = now["memory"], now.get("network"), now.get("io"), now.get("disk")
    return (
        now["namespace"], now["name"], _share(now, before, "usageSeconds"), _share(now, before, "throttledSeconds"),
        _pair(memory["workingSetBytes"], memory.get("limitBytes")), _bytes(memory.get("cacheBytes")), _bytes(memory["peakBytes"]),
        str(now["pids"]["current"]),
        _pair(network["receivedBytes"], network["sentBytes"]) if network else "",
        str(network["receivedDropped"] + network["sentDropped"]) if network else "",
        str(network.get("deniedPackets") or 0) if network else "",
        _pair(io["readBytes"], io["writeBytes"]) if io else "",
        _pair(disk["usedBytes"], disk.get("limitBytes")) if disk else "",
    )  # fmt: skip


def _share(now: dict[str, Any], before: dict[str, Any] | None, name: str) -> str:
    """Of the time between the two, in per cent of one processor."""
    seconds = _parse(now["time"]) - _parse(before["time"]) if before is not None else 0.0
    if before is None or seconds <= 0:
        return ""
    return f"{max(now['cpu'][name] - before['cpu'][name], 0) / seconds * 100:.1f}%"


def _pair(first: int, second: int | None) -> str:
    return f"{_bytes(first)} / {_bytes(second) or '-'}"


def _bytes(size: int | None) -> str:
    return "" if size is None else output.render_bytes(size)


def _parse(moment: str) -> float:
    from datetime import datetime  # noqa: PLC0415 - only here

    return datetime.fromisoformat(moment).timestamp()


def _render_seconds(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:05.2f}"
