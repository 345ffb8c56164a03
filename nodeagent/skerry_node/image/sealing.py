"""Where the bytes of a layer go: written in order, and sealed as they pass.

The seal is the BLAKE3 of the file from its second block on, then of its first: the superblock is known last, and nothing is read twice.
What is sealed is ours alone, so no standard asks for sha256 here, which takes two and a half times as long.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

BLOCK = 4096
_PIECE_BYTES = 1 << 20
_QUEUE_LENGTH = 8
_WRITEBACK_BYTES = 16 << 20
_ZEROS = bytes(_PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file of *size_bytes*, and its seal."""

    size_bytes: int
    seal: str


class Sink(Protocol):
    """Takes everything behind the first block in order, then the first block."""

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append all of *parts*."""
        ...

    def skip(self, length: int) -> None:
        """Append a hole of *length* bytes."""
        ...

    def finish(self, head: bytes) -> Sealed:
        """Put the first block in its place; the file is complete."""
        ...


class FileSink:
    """A sink over an empty file at *fd*. *start_writeback* is told now and then which bytes may go to the disk already."""

    def __init__(self, fd: int, *, start_writeback: Callable[[int, int, int], None] | None = None) -> None:
        self._fd = fd
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._used = 0
        self._offset = self._started = BLOCK
        self._hash = blake3()
        self._start_writeback = start_writeback

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append all of *parts*. Raises OSError."""
        buffer, used = self._buffer, self._used
        for part in parts:
            end = used + len(part)
            if end > _PIECE_BYTES:
                self._used = used
                self._fill(memoryview(part))
                used = self._used
                continue
            buffer[used:end] = part
            used = end
        self._used = used

    def skip(self, length: int) -> None:
        """Append a hole, or zeros where it is no whole block."""
        before = min(length, -self._used % BLOCK)
        self.write([_ZEROS[:before]])
        hole = (length - before) // BLOCK * BLOCK
        if hole:
            self._flush()
            self._offset += hole
            for start in range(0, hole, _PIECE_BYTES):
                self._hash.update(_ZEROS[: min(hole - start, _PIECE_BYTES)])
        self.write([_ZEROS[: length - before - hole]])

    def finish(self, head: bytes) -> Sealed:
        """Write what is left and the first block, fix the length. All that came must be whole blocks together."""
        assert len(head) == BLOCK
        assert self._used % BLOCK == 0
        self._flush()
        os.ftruncate(self._fd, self._offset)
        self._buffer[:BLOCK] = head
        os.pwrite(self._fd, self._buffer[:BLOCK], 0)
        self._hash.update(head)
        return Sealed(size_bytes=self._offset, seal=f"blake3:{self._hash.hexdigest()}")

    def _fill(self, view: memoryview) -> None:
        while view:
            count = min(len(view), _PIECE_BYTES - self._used)
            self._buffer[self._used : self._used + count] = view[:count]
            self._used, view = self._used + count, view[count:]
            if self._used == _PIECE_BYTES:
                self._flush()

    def _flush(self) -> None:
        view, offset = self._buffer[: self._used], self._offset
        self._hash.update(view)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written
        self._offset, self._used = offset, 0
        if self._start_writeback is not None and offset - self._started >= _WRITEBACK_BYTES:
            self._start_writeback(self._fd, self._started, offset - self._started)
            self._started = offset


class ThreadSink:
    """A sink that works in a thread of its own, a bounded number of writes behind. `close` in any case."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: queue.Queue[Sequence[bytes | memoryview] | int | None] = queue.Queue(_QUEUE_LENGTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)
        self._thread.start()

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append all of *parts*, soon. Raises what an earlier write met."""
        self._check()
        self._queue.put(parts)

    def skip(self, length: int) -> None:
        """Append a hole, soon."""
        self._check()
        self._queue.put(length)

    def finish(self, head: bytes) -> Sealed:
        """Wait for all, then finish."""
        self.close()
        self._check()
        return self._sink.finish(head)

    def close(self) -> None:
        """End the thread once it has done what it was given."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                if isinstance(piece, int):
                    self._sink.skip(piece)
                else:
                    self._sink.write(piece)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the one who waits is told
                self._error = error


def seal(fd: int, *, pause: Callable[[int], None] | None = None) -> Sealed:
    """Size and seal of the file at *fd*, as it is now; *pause* is called with the bytes of each piece that was read. Blocks. Raises OSError."""
    total, position = blake3(), BLOCK
    while piece := os.pread(fd, _PIECE_BYTES, position):
        total.update(piece)
        position += len(piece)
        if pause is not None:
            pause(len(piece))
    head = os.pread(fd, BLOCK, 0)
    total.update(head)
    return Sealed(size_bytes=position if len(head) == BLOCK else len(head), seal=f"blake3:{total.hexdigest()}")
