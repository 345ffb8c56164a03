"""The reader against what the keeper really writes: two sides of one format."""

import asyncio
import os
import threading

import pytest

from skerry_node import logfiles
from skerry_node.keeper import logs


class Pump:
    """The keeper's streams in a thread, fed through real pipes."""

    def __init__(self, directory, *, segment_bytes, segments) -> None:
        self.writers = {}
        self._streams = []
        parent, uid = os.path.split(directory)
        self._logs_fd = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
        bounds = logs.Bounds(segment_bytes=segment_bytes, segments=segments)
        for name in logfiles.STREAMS:
            read_fd, self.writers[name] = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read_fd, False)
            self._streams.append(logs.Stream(name, pipe_fd=read_fd, logs_fd=self._logs_fd, uid=uid, bounds=bounds))
        self.has_ended = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        live = list(self._streams)
        while live:
            results = [(stream, stream.pump()) for stream in live]
            live = [stream for stream, moved in results if moved is not None]
            if not any(moved for _, moved in results):
                self.has_ended.wait(0.001)
        for stream in self._streams:
            stream.close()
        os.close(self._logs_fd)
        self.has_ended.set()

    def write(self, count):
        """*count* numbered lines on each stream, then the end."""

        def write():
            for number in range(count):
                for fd in self.writers.values():
                    os.write(fd, b"line %d\n" % number)
            for fd in self.writers.values():
                os.close(fd)

        threading.Thread(target=write).start()


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("segment_bytes", [1_000, 1 << 20])
async def test_a_follower_beside_the_keeper_sees_every_line_once(tmp_path, segment_bytes, joins):
    """Lines of both streams, over hundreds of rotations, none lost, none doubled."""
    pump = Pump(str(tmp_path), segment_bytes=segment_bytes, segments=10_000)
    pump.write(20_000)
    batches = logfiles.follow(str(tmp_path), has_ended=pump.has_ended.is_set, joins=joins, poll_seconds=0.002)
    got = {name: bytearray() for name in logfiles.STREAMS}
    async with asyncio.timeout(30):
        async for batch in batches:
            for line in batch:
                got[line.stream] += line.data
    pump.thread.join()
    expected = b"".join(b"line %d\n" % number for number in range(20_000))
    assert got == dict.fromkeys(logfiles.STREAMS, expected)
    tail = list(logfiles.read_lines(str(tmp_path), tail=3))
    assert sum(line.starts for line in tail) == 3
    assert b"".join(line.data for line in tail).endswith(b"line 19999\n")


def test_what_is_kept_is_bounded_and_readable(tmp_path):
    """The keeper deletes what is too old, and the reader starts at what is left."""
    pump = Pump(str(tmp_path), segment_bytes=10_000, segments=3)
    pump.write(20_000)
    pump.thread.join()
    lines = list(logfiles.read_lines(str(tmp_path), streams=["stdout"]))
    assert lines[-1].data == b"line 19999\n"
    assert sum(len(line.data) for line in lines) <= 3 * (10_000 + logs.BATCH_BYTES)
    assert lines[0].offset > 0
