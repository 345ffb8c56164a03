"""Reading what the keeper writes: the files here are written as the contract of the log format says."""

import asyncio
import os
import random
import struct
import tracemalloc

import pytest

from skerry_node import logfiles

SECOND = 1_000_000_000


class Writer:
    """The keeper's side of the format, for one stream."""

    def __init__(self, directory, stream="stdout", *, segment_bytes=64, segments=100) -> None:
        self.directory, self.stream = str(directory), stream
        self.segment_bytes, self.segments = segment_bytes, segments
        self.offset = 0
        self.start = None
        os.makedirs(self.directory, exist_ok=True)

    def write(self, data, at=0, *, is_recorded=True):
        """One batch that comes at second *at*; split over segments where one is full."""
        while data:
            if self.start is None or self.offset - self.start >= self.segment_bytes:
                self.start = self.offset
                self._rotate()
            piece = data[: self.segment_bytes - (self.offset - self.start)]
            with open(self._segment(self.start), "ab") as file:
                file.write(piece)
            self.offset += len(piece)
            data = data[len(piece) :]
        if is_recorded:
            with open(self._index(), "ab") as file:
                file.write(struct.pack("<QQ", self.offset, int(at * SECOND)))

    def _rotate(self):
        open(self._segment(self.start), "ab").close()
        prefix = f"{self.stream}."
        starts = sorted(int(n[len(prefix) :]) for n in os.listdir(self.directory) if n.startswith(prefix) and n[-1].isdigit())
        for start in starts[: -self.segments]:
            os.unlink(self._segment(start))
        oldest = starts[-self.segments :][0]
        if os.path.exists(self._index()):
            with open(self._index(), "rb") as file:
                records = list(struct.iter_unpack("<QQ", file.read()))
            with open(self._index() + ".new", "wb") as file:
                file.writelines(struct.pack("<QQ", *r) for r in records if r[0] > oldest)
            os.rename(self._index() + ".new", self._index())

    def _segment(self, start):
        return f"{self.directory}/{self.stream}.{start:020d}"

    def _index(self):
        return f"{self.directory}/{self.stream}.index"


def texts(lines):
    return [line.data for line in lines]


def joined(lines):
    return b"".join(texts(lines))


async def collect(batches):
    return [line async for batch in batches for line in batch]


def test_nothing_there_is_no_lines(tmp_path):
    """A sandbox that has not started has an empty log."""
    assert list(logfiles.read_lines(str(tmp_path / "none"))) == []


def test_streams_merge_by_the_time_their_lines_came(tmp_path):
    """Lines of both streams come in order of time, each with the time of its first byte."""
    out, err = Writer(tmp_path), Writer(tmp_path, "stderr")
    out.write(b"one\nthr", at=1)
    err.write(b"two\n", at=2)
    out.write(b"ee\n", at=3)
    err.write(b"four\n", at=4)
    lines = list(logfiles.read_lines(str(tmp_path)))
    assert [(line.time_ns // SECOND, line.stream, line.data) for line in lines] == [
        (1, "stdout", b"one\n"),
        (1, "stdout", b"three\n"),
        (2, "stderr", b"two\n"),
        (4, "stderr", b"four\n"),
    ]
    assert texts(logfiles.read_lines(str(tmp_path), streams=["stderr"])) == [b"two\n", b"four\n"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"a\nb\n", [b"a\n", b"b\n"], id="all is well"),
        pytest.param(b"a\nb", [b"a\n", b"b"], id="last line unfinished"),
        pytest.param(b"\n\n", [b"\n", b"\n"], id="empty lines"),
        pytest.param(b"\x00\xff\r\x1b[2J\n\xc3", [b"\x00\xff\r\x1b[2J\n", b"\xc3"], id="binary"),
    ],
)
def test_bytes_stay_as_they_are(tmp_path, content, expected):
    """Content is split at newlines and nothing else happens to it."""
    Writer(tmp_path, segment_bytes=1 << 20).write(content)
    assert texts(logfiles.read_lines(str(tmp_path))) == expected


def test_a_line_without_end_comes_in_pieces_in_bounded_memory(tmp_path):
    """64 MiB without a newline never take more than a few blocks, and all of it arrives."""
    size = 64 << 20
    os.makedirs(tmp_path, exist_ok=True)
    with open(tmp_path / f"stdout.{0:020d}", "wb") as file:
        file.truncate(size)
    tracemalloc.start()
    total = starts = 0
    for line in logfiles.read_lines(str(tmp_path)):
        assert len(line.data) <= logfiles.MAX_PIECE_BYTES
        total += len(line.data)
        starts += line.starts
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (total, starts) == (size, 1)
    assert peak < 1 << 20


@pytest.mark.parametrize("segment_bytes", [pytest.param(1, marks=pytest.mark.thorough), 7, 64, 1 << 20])
def test_every_byte_once_over_any_rotation(tmp_path, segment_bytes):
    """Whatever the segments' size, the bytes come back whole and in order, with pieces of a line marked."""
    rng = random.Random(segment_bytes)
    writer = Writer(tmp_path, segment_bytes=segment_bytes, segments=10_000)
    written = b""
    for at in range(60):
        data = bytes(rng.choice(b"ab\n") for _ in range(rng.randrange(1, 20)))
        writer.write(data, at=at)
        written += data
    lines = list(logfiles.read_lines(str(tmp_path)))
    assert joined(lines) == written
    assert sum(line.starts for line in lines) == len(written.rstrip(b"\n").split(b"\n")) + (
        len(written) - len(written.rstrip(b"\n")) - 1 if written.endswith(b"\n") else 0
    )
    assert [line.offset for line in lines] == [sum(len(x.data) for x in lines[:i]) for i in range(len(lines))]


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 5, 100])
def test_tail_counts_lines_of_the_merged_streams(tmp_path, tail):
    """The last n lines by time, whichever stream they are from."""
    out, err = Writer(tmp_path, segment_bytes=5), Writer(tmp_path, "stderr", segment_bytes=5)
    for at in range(0, 20, 2):
        out.write(b"o%d\n" % at, at=at)
        err.write(b"e%d\n" % (at + 1), at=at + 1)
    every = list(logfiles.read_lines(str(tmp_path)))
    whole = [every[i:] for i in range(len(every) + 1)]
    kept = list(logfiles.read_lines(str(tmp_path), tail=tail))
    assert sum(line.starts for line in kept) == min(tail, 20)
    assert kept in whole


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        pytest.param(0, b"a\nlong line\nb\nc\n", id="everything"),
        pytest.param(1, b"a\nlong line\nb\nc\n", id="from the first batch"),
        pytest.param(1.5, b"b\nc\n", id="a line that began before is not cut in two"),
        pytest.param(4, b"c\n", id="from the last batch"),
        pytest.param(9, b"", id="later than everything"),
    ],
)
def test_since_starts_at_lines_that_began_then(tmp_path, since, expected):
    """A line counts by the time of its first byte."""
    writer = Writer(tmp_path)
    writer.write(b"a\nlong ", at=1)
    writer.write(b"line\nb\n", at=3)
    writer.write(b"c\n", at=4)
    os.utime(tmp_path / f"stdout.{0:020d}", ns=(4 * SECOND, 4 * SECOND))
    assert joined(logfiles.read_lines(str(tmp_path), since_ns=int(since * SECOND))) == expected


def test_bytes_without_a_record_carry_the_segments_time(tmp_path):
    """After a keeper's sudden death the index may lack the last batch."""
    writer = Writer(tmp_path)
    writer.write(b"a\n", at=1)
    writer.write(b"b\n", is_recorded=False)
    os.utime(tmp_path / f"stdout.{0:020d}", ns=(7 * SECOND, 7 * SECOND))
    assert [line.time_ns // SECOND for line in logfiles.read_lines(str(tmp_path))] == [1, 7]


def test_a_cursor_goes_on_where_a_line_ended(tmp_path):
    """Line.end of the last line read is the place to go on from, nothing lost or doubled."""
    writer = Writer(tmp_path, segment_bytes=8)
    writer.write(b"one\ntwo\nthree\nfour\n", at=1)
    lines = list(logfiles.read_lines(str(tmp_path)))
    for line in lines:
        rest = joined(logfiles.read_lines(str(tmp_path), cursor={"stdout": line.end}))
        assert rest == b"one\ntwo\nthree\nfour\n"[line.end :]


def test_what_rotation_took_is_skipped_not_invented(tmp_path):
    """Only the newest segments are left; reading starts at the oldest of them."""
    writer = Writer(tmp_path, segment_bytes=4, segments=3)
    for number in range(10):
        writer.write(b"%03d\n" % number, at=number)
    lines = list(logfiles.read_lines(str(tmp_path)))
    assert texts(lines) == [b"007\n", b"008\n", b"009\n"]
    assert [line.time_ns // SECOND for line in lines] == [7, 8, 9]


async def test_follow_gives_each_byte_once_and_ends_with_the_sandbox(tmp_path):
    """A writer that rotates all the time and a reader beside it: the same bytes, then the end."""
    writers = [Writer(tmp_path, s, segment_bytes=50, segments=10_000) for s in logfiles.STREAMS]
    written = dict.fromkeys(logfiles.STREAMS, b"")
    is_over = False

    async def write():
        nonlocal is_over
        rng = random.Random(5)
        for at in range(200):
            writer = rng.choice(writers)
            data = bytes(rng.choice(b"abc\n") for _ in range(rng.randrange(1, 40)))
            writer.write(data, at=at)
            written[writer.stream] += data
            await asyncio.sleep(0.0005 * rng.randrange(4))
        is_over = True

    task = asyncio.create_task(write())
    lines = await collect(logfiles.follow(str(tmp_path), has_ended=lambda: is_over, poll_seconds=0.002))
    await task
    for stream in logfiles.STREAMS:
        own = [line for line in lines if line.stream == stream]
        assert joined(own) == written[stream]
        assert all(line.starts == (i == 0 or own[i - 1].data.endswith(b"\n")) for i, line in enumerate(own))


async def test_follow_outlives_deleted_segments_and_a_rewritten_index(tmp_path):
    """Rotation behind a reader that keeps up loses nothing, and times stay true after the index is replaced."""
    writer = Writer(tmp_path, segment_bytes=6, segments=2)
    is_over = False

    async def write():
        nonlocal is_over
        for number in range(40):
            writer.write(b"%d\n" % number, at=number + 1)
            await asyncio.sleep(0.008)
        is_over = True

    task = asyncio.create_task(write())
    lines = await collect(logfiles.follow(str(tmp_path), has_ended=lambda: is_over, poll_seconds=0.001))
    await task
    assert joined(lines) == b"".join(b"%d\n" % n for n in range(40))
    assert [line.time_ns // SECOND for line in lines if line.starts] == list(range(1, 41))


async def test_an_unfinished_line_is_shown_when_it_stops_growing(tmp_path):
    """A prompt without a newline is seen, and what follows belongs to the same line."""
    writer = Writer(tmp_path)
    writer.write(b"name? ", at=1)
    is_over = False
    batches = logfiles.follow(str(tmp_path), has_ended=lambda: is_over, poll_seconds=0.001)
    prompt = await anext(batches)
    writer.write(b"bob\n", at=2)
    is_over = True
    (rest,) = [batch async for batch in batches]
    assert [(x.data, x.starts, x.time_ns // SECOND) for x in (*prompt, *rest)] == [
        (b"name? ", True, 1),
        (b"bob\n", False, 1),
    ]


async def test_joined_lines_are_those_of_one_batch(tmp_path):
    """Joining changes how many pieces there are, not what is in them or when it came."""
    out, err = Writer(tmp_path, segment_bytes=1 << 20), Writer(tmp_path, "stderr", segment_bytes=1 << 20)
    out.write(b"a\nb\nc", at=1)
    err.write(b"e\nf\n", at=2)
    out.write(b"c\nd\n", at=3)
    lines = await collect(logfiles.follow(str(tmp_path), has_ended=lambda: True, joins=True))
    assert [(line.time_ns // SECOND, line.data) for line in lines] == [
        (1, b"a\nb\n"),
        (1, b"cc\n"),
        (2, b"e\nf\n"),
        (3, b"d\n"),
    ]


async def test_following_leaves_no_open_file(tmp_path):
    """A reader that goes away in the middle closes what it read from."""
    Writer(tmp_path).write(b"a\n")
    before = len(os.listdir("/proc/self/fd"))
    batches = logfiles.follow(str(tmp_path), has_ended=lambda: False)
    await anext(batches)
    assert len(os.listdir("/proc/self/fd")) > before
    await batches.aclose()
    assert len(os.listdir("/proc/self/fd")) == before
