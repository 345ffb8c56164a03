"""A sandbox's output as lines: merged by time, from a point on, followed; across rotation, in bounded memory.

Nothing about the content is trusted: a line without end comes in pieces, bytes stay bytes.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from skerry_node import logsegments

STREAMS = ("stdout", "stderr")
MAX_PIECE_BYTES = logsegments.BLOCK_BYTES
_BATCH_LINES = 512
"""Lines after which `follow` lets others run: about a millisecond of work."""
_BATCH_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its newline, or a piece of one: at most 64 KiB, or what has come of it so far.

    Where lines are joined, all the lines that came at one time.
    """

    time_ns: int
    """When the first byte of the line came."""
    stream: str
    data: bytes
    offset: int
    """Of the first byte, in its stream."""
    starts: bool
    """Whether a line starts here; False in the later pieces of a long one."""

    @property
    def end(self) -> int:
        """The offset after the last byte: the cursor to go on from."""
        return self.offset + len(self.data)


def read_lines(
    directory: str,
    *,
    streams: Sequence[str] = STREAMS,
    since_ns: int = 0,
    tail: int | None = None,
    cursor: Mapping[str, int] | None = None,
) -> Iterator[Line]:
    """What is in the files at this moment, merged by time.

    *tail* keeps the last so many lines of the merged streams; *cursor* maps a stream to the offset to start from.
    """
    readers = _open(directory, streams=streams, since_ns=since_ns, tail=tail, cursor=cursor)
    try:
        _limit(readers)
        yield from _merge(readers, is_final=True)
    finally:
        _close(readers)


async def follow(  # noqa: PLR0913 - one for each thing that can be asked
    directory: str,
    *,
    has_ended: Callable[[], bool],
    streams: Sequence[str] = STREAMS,
    since_ns: int = 0,
    tail: int | None = None,
    cursor: Mapping[str, int] | None = None,
    joins: bool = False,
    pause: Callable[[], Awaitable[None]] | None = None,
    poll_seconds: float = 0.05,
) -> AsyncGenerator[tuple[Line, ...], None]:
    """As `read_lines`, but in batches, none empty; then what comes, until *has_ended* and everything is read.

    With *joins*, lines that came at one time are one: much cheaper, for who does not look at each.
    An unfinished line is given out when it has not grown for one poll. With *pause*, which returns when there may be more, lines
    are joined, and what came of one is given out at once. Slow readers cost nothing: bytes stay on disk.
    """
    readers = _open(directory, streams=streams, since_ns=since_ns, tail=tail, cursor=cursor, joins=joins, is_raw=pause is not None)
    try:
        is_final = False
        while not is_final:
            is_final = has_ended()  # asked before reading: what was written until then is read below
            if is_final:
                _limit(readers)
            lines = _merge(readers, is_final=is_final)
            while batch := _take_batch(lines):
                yield batch
                await asyncio.sleep(0)
            if not is_final:
                await (pause() if pause is not None else asyncio.sleep(poll_seconds))
    finally:
        _close(readers)


class _Reader:
    """One stream, from *offset* on."""

    def __init__(self, directory: str, stream: str, *, offset: int = 0, joins: bool = False, is_raw: bool = False) -> None:
        self.stream = stream
        self._joins = joins or is_raw
        self._is_raw = is_raw
        self.segments = logsegments.Segments(directory, stream)
        self.index = logsegments.Index(directory, stream)
        self.offset = offset
        self.limit: int | None = None
        self._starts = self._is_line_start(offset)
        self._time_ns: int | None = None
        self._unfinished_end = -1

    def lines(self, *, is_final: bool) -> Iterator[Line]:
        """Everything up to the present end; an unfinished line when it is final or did not grow since the last call."""
        while True:
            size = logsegments.BLOCK_BYTES
            if self.limit is not None:
                size = min(size, self.limit - self.offset)
            if size <= 0:
                return
            start, block = self.segments.read(self.offset, size=size)
            if not block:
                return
            if start > self.offset:  # rotation was faster than this reader
                self.offset, self._starts = start, True
            begin = 0
            while (end := block.find(b"\n", begin) + 1) > 0:
                if self._joins:
                    end = max(end, block.rfind(b"\n", begin, begin + self._batch_bytes()) + 1)
                yield self._take(block[begin:end])
                begin = end
            rest = block[begin:]
            if begin or not rest:
                continue  # the rest is read again from its start, so that as much as possible comes in one piece
            end = self.offset + len(rest)
            if len(rest) < MAX_PIECE_BYTES and not (is_final or self._is_raw) and end != self._unfinished_end:
                self._unfinished_end = end
                return
            yield self._take(rest)

    def skip_line(self) -> None:
        """Go to the next start of a line, when in the middle of one."""
        while not self._starts:
            start, block = self.segments.read(self.offset)
            if not block:
                return
            end = block.find(b"\n") + 1
            self.offset = start + (end or len(block))
            self._starts = end > 0

    def _batch_bytes(self) -> int:
        """How many of the next bytes came at one time, as far as that is recorded."""
        self.index.time_of(self.offset)
        return max(self.index.reached - self.offset, 0)

    def _take(self, data: bytes) -> Line:
        if self._starts or self._time_ns is None:
            time_ns = self.index.time_of(self.offset)
            self._time_ns = self.segments.modified_ns() if time_ns is None else time_ns
        line = Line(self._time_ns, self.stream, data, self.offset, self._starts)
        self.offset += len(data)
        self._starts = data.endswith(b"\n")
        return line

    def _is_line_start(self, offset: int) -> bool:
        if offset == 0:
            return True
        start, before = self.segments.read(offset - 1, size=1)
        return start > offset - 1 or before in {b"", b"\n"}


def _open(
    directory: str,
    *,
    streams: Sequence[str],
    since_ns: int,
    tail: int | None,
    cursor: Mapping[str, int] | None,
    joins: bool = False,
    is_raw: bool = False,
) -> list[_Reader]:
    offsets = {stream: (cursor or {}).get(stream, 0) for stream in streams}
    if since_ns:
        offsets = {stream: max(o, _offset_since(directory, stream, since_ns)) for stream, o in offsets.items()}
    if tail is not None:
        offsets = _offsets_of_tail(directory, offsets, tail)
    return [_Reader(directory, stream, offset=offset, joins=joins, is_raw=is_raw) for stream, offset in offsets.items()]


def _offset_since(directory: str, stream: str, since_ns: int) -> int:
    """The first line that began at *since_ns* or later; the end when there is none yet."""
    index = logsegments.Index(directory, stream)
    offset, is_recorded = index.first_offset_since(since_ns)
    index.close()
    reader = _Reader(directory, stream, offset=offset)
    try:
        _, data = reader.segments.read(offset, size=1)
        if data and not is_recorded and reader.segments.modified_ns() < since_ns:
            return reader.segments.end()
        reader.skip_line()
        return reader.offset
    finally:
        _close([reader])


def _offsets_of_tail(directory: str, offsets: Mapping[str, int], tail: int) -> dict[str, int]:
    """Where the last *tail* lines of the merged streams start; a first look keeps positions, not bytes."""
    starts = {stream: max(o, _offset_of_last(directory, stream, tail)) for stream, o in offsets.items()}
    readers = [_Reader(directory, stream, offset=offset) for stream, offset in starts.items()]
    try:
        _limit(readers)
        kept = deque(((line.stream, line.offset) for line in _merge(readers, is_final=True) if line.starts), maxlen=tail)
        ends = {reader.stream: reader.offset for reader in readers}
        return {stream: min((o for s, o in kept if s == stream), default=ends[stream]) for stream in offsets}
    finally:
        _close(readers)


def _offset_of_last(directory: str, stream: str, count: int) -> int:
    """An offset at a line's start with at least *count* lines after it, where there are so many."""
    wanted = count + 1  # the newline before them; the last line's own newline makes it one more, which does no harm
    for offset, block in logsegments.Segments(directory, stream).backwards():
        found = block.count(b"\n")
        if found < wanted:
            wanted -= found
            continue
        at = len(block)
        for _ in range(wanted):
            at = block.rfind(b"\n", 0, at)
        return offset + at + 1
    return 0


def _merge(readers: Sequence[_Reader], *, is_final: bool) -> Iterator[Line]:
    return heapq.merge(*(reader.lines(is_final=is_final) for reader in readers), key=lambda line: line.time_ns)


def _take_batch(lines: Iterator[Line]) -> tuple[Line, ...]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line.data)
        if size >= _BATCH_BYTES or len(batch) == _BATCH_LINES:
            break
    return tuple(batch)


def _limit(readers: Sequence[_Reader]) -> None:
    """Let them end where the files end now, however fast they grow."""
    for reader in readers:
        reader.limit = reader.segments.end()


def _close(readers: Sequence[_Reader]) -> None:
    for reader in readers:
        reader.segments.close()
        reader.index.close()
