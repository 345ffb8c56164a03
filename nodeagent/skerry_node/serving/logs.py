"""A sandbox's output over HTTP: chunked, at the reader's pace."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from skerry_node import logfiles
from skerry_node.serving.backend import Refused

_FRAME = struct.Struct(">B3xI")
"""Before each piece when frames are asked for: 1 stdout or 2 stderr, three zeros, length; Docker's stream format."""
_NUMBERS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True)
class Options:
    """What of the output is asked for, and how it comes."""

    streams: tuple[str, ...]
    is_following: bool
    tail: int | None
    since_ns: int
    has_timestamps: bool
    has_frames: bool
    cursor: Mapping[str, int]


def parse_options(query: Mapping[str, str]) -> Options:
    """From follow, tail, since (RFC 3339 or unix seconds), timestamps, stream, frames and cursor. Raises Refused."""
    stream = query.get("stream", "both")
    if stream not in {"both", *logfiles.STREAMS}:
        raise Refused("must be stdout, stderr or both", field="stream")
    return Options(
        streams=logfiles.STREAMS if stream == "both" else (stream,),
        is_following=_flag(query, "follow"),
        tail=_parse_tail(query.get("tail", "all")),
        since_ns=_parse_since(query.get("since", "")),
        has_timestamps=_flag(query, "timestamps"),
        has_frames=_flag(query, "frames"),
        cursor=parse_cursor(query.get("cursor", "")),
    )


def parse_cursor(text: str) -> dict[str, int]:
    """From `stdout:123,stderr:0`: the offsets to go on from. Raises Refused."""
    pairs = [part.partition(":") for part in text.split(",") if part]
    if any(name not in logfiles.STREAMS or not offset.isdecimal() or len(offset) > 18 for name, _, offset in pairs):
        raise Refused("must be as stdout:123,stderr:0", field="cursor")
    return {name: int(offset) for name, _, offset in pairs}


async def respond(request: web.Request, *, options: Options, directory: str, has_ended: Callable[[], bool]) -> web.StreamResponse:
    """Send what *options* ask for; while following, until *has_ended* and all is sent, or the client goes."""
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    lines = logfiles.follow(
        directory,
        has_ended=has_ended if options.is_following else lambda: True,
        streams=options.streams,
        since_ns=options.since_ns,
        tail=options.tail,
        cursor=options.cursor,
        joins=not options.has_timestamps,
    )
    async with contextlib.aclosing(lines):
        async for batch in lines:
            await response.write(b"".join(render(line, options=options) for line in batch))
    await response.write_eof()
    return response


def render(line: logfiles.Line, *, options: Options) -> bytes:
    """A line as it goes over the wire."""
    data = line.data
    if options.has_timestamps and line.starts:
        data = render_time(line.time_ns).encode() + b" " + data
    return _FRAME.pack(_NUMBERS[line.stream], len(data)) + data if options.has_frames else data


def render_time(time_ns: int) -> str:
    """RFC 3339 with nanoseconds, as kubectl and docker print it."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in {"", "1", "0", "true", "false"}:
        raise Refused("must be true or false", field=name)
    return value in {"", "1", "true"}


def _parse_tail(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or len(text) > 9:
        raise Refused("must be a number of lines, or all", field="tail")
    return int(text)


def _parse_since(text: str) -> int:
    if not text:
        return 0
    try:
        moment = float(text) if text[0].isdecimal() and "T" not in text else _parse_time(text)
        return max(int(moment * 1_000_000_000), 1)
    except (ValueError, OverflowError):
        raise Refused("must be a time as 2026-01-31T12:00:00Z, or unix seconds", field="since") from None


def _parse_time(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
