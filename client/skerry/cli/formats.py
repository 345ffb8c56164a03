r"""`ps --format`: docker's templates, as far as people write them: `{{.Names}}`, `{{json .}}`, `table ` before, `\t` between. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from skerry.cli import output

if TYPE_CHECKING:
    from skerry_api.sandbox import Sandbox

_PLACE = re.compile(r"\{\{\s*(json \.|\.[A-Za-z]+)\s*\}\}")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


class BadFormatError(ValueError):
    """A template that cannot be meant."""


def _phase(sandbox: Sandbox) -> str:
    return "Terminating" if sandbox.metadata.deletion_timestamp else str(sandbox.status.phase or "Pending")


def _command(sandbox: Sandbox) -> str:
    return " ".join((*(sandbox.spec.command or ()), *(sandbox.spec.args or ())))


FIELDS: dict[str, Callable[[Sandbox], str]] = {
    "Names": lambda each: each.metadata.name,
    "Name": lambda each: each.metadata.name,
    "ID": lambda each: each.metadata.uid,
    "Namespace": lambda each: each.metadata.namespace,
    "Image": lambda each: each.spec.image,
    "Command": _command,
    "Status": _phase,
    "State": lambda each: _phase(each).lower(),
    "CreatedAt": lambda each: each.metadata.creation_timestamp or "",
    "RunningFor": lambda each: output.render_age(each.metadata.creation_timestamp),
    "Labels": lambda each: ",".join(f"{key}={value}" for key, value in sorted(dict(each.metadata.labels).items())),
    "Address": lambda each: each.status.address or "",
    "Node": lambda each: each.spec.node_name or "",
}


def check(template: str) -> None:
    """Raises BadFormatError when *template* has a place that is none of FIELDS."""
    if template == "json":
        return
    unknown = [place for place in _PLACE.findall(template) if place != "json ." and place[1:] not in FIELDS]
    if unknown or "{{" in _PLACE.sub("", template) or not _PLACE.search(template):
        what = unknown[0] if unknown else template
        raise BadFormatError(f"{what}: write for example '{{{{.Names}}}}'; there are {', '.join(FIELDS)} and '{{{{json .}}}}'")


def render(template: str, found: Iterable[Sandbox]) -> list[str]:
    """A line for each sandbox, control characters spelled out; with `table ` before the template, a header and columns."""
    template = "{{json .}}" if template == "json" else template
    is_table = template.startswith("table ")
    for escape, character in _ESCAPES.items():
        template = template.removeprefix("table ").replace(escape, character)
    lines = [_PLACE.sub(lambda match, each=each: _value(match[1], each), template) for each in found]  # type: ignore[misc]
    if not is_table:
        return lines
    rows = [line.split("\t") for line in (_PLACE.sub(lambda match: match[1].lstrip(".").upper(), template), *lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _value(place: str, sandbox: Sandbox) -> str:
    if place == "json .":
        return json.dumps({name: read(sandbox) for name, read in FIELDS.items() if name != "Name"}, ensure_ascii=True)
    return output.plain(FIELDS[place[1:]](sandbox))
