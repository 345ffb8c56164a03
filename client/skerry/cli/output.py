"""How answers look: aligned tables, JSON, YAML; colours only on a terminal, which no text of a sandbox can steer."""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

_GAP = "   "
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2"}
_PHASES = {"Running": "green", "Paused": "yellow", "Creating": "yellow", "Pending": "yellow", "Failed": "red", "Lost": "red"}


class Format(enum.StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class DataFormat(enum.StrEnum):
    """What `-o` takes where only the whole answer makes sense."""

    JSON = "json"
    YAML = "yaml"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; a cell that is empty is `-`. Phases are coloured on a terminal."""
    cells = [list(header), *([plain(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    is_coloured = _has_colours(sys.stdout)
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if is_coloured:
            padded = [paint(cell, _PHASES.get(cell.strip(), "")) for cell in padded]
        print(_GAP.join(padded).rstrip())


def print_data(value: Any, form: str) -> None:
    """*value* as JSON or YAML."""
    if form == "yaml":
        import yaml  # noqa: PLC0415 - only this format needs it

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        print(yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True), end="")
    else:
        print(json.dumps(value, indent=2, ensure_ascii=False))


def print_piece(stream: str, data: bytes) -> bool:
    """Output of a sandbox as it is, to stdout or stderr at once; False when nobody reads there any more."""
    target = sys.stdout if stream == "stdout" else sys.stderr
    try:
        target.buffer.write(data)
        target.buffer.flush()
    except BrokenPipeError:
        # What the buffer still holds would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())
        return False
    return True


def print_error(message: str, *, hint: str = "") -> None:
    """One line for what went wrong, one for what to do, unless the first ends with it."""
    label = paint("error:", "red") if _has_colours(sys.stderr) else "error:"
    print(f"{label} {plain(message)}", file=sys.stderr)
    if hint and not message.endswith(hint):
        print(f"  {hint}", file=sys.stderr)


def print_note(message: str) -> None:
    """One line about what is waited for, beside the program's output."""
    print(plain(message), file=sys.stderr)


def paint(text: str, colour: str) -> str:
    """*text* in a colour, as it is when there is no such colour."""
    code = _COLOURS.get(colour)
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def plain(text: object) -> str:
    """*text* on one line with control characters spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def render_age(moment: str | None, *, now: datetime | None = None) -> str:
    """Time since *moment* (RFC 3339) as kubectl prints it: 5s, 3m, 2h, 4d."""
    if not moment:
        return ""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    seconds = max(int(((now or datetime.now(UTC)) - then).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size or (seconds >= size and unit != "m"):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def render_bytes(size: int) -> str:
    """A size in binary units with one decimal: 1.5 MiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _has_colours(stream: Any) -> bool:
    # https://no-color.org: any non-empty value switches colours off
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
