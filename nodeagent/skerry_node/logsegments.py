"""One stream of a sandbox's log on disk: bytes by offset, time by offset. The keeper writes, this only reads.

`<stream>.<20 digits>` holds the stream's bytes from that offset on, up to the next segment's; `<stream>.index` holds
records `<QQ` (offset reached, unix time in ns). Memory is one block whatever the files hold.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

BLOCK_BYTES = 64 << 10
"""Read at once, and the longest piece of a line: what a pipe holds."""

_RECORD = struct.Struct("<QQ")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Segments:
    """The bytes of *stream* in *directory*, which need not exist yet. Close it."""

    def __init__(self, directory: str, stream: str) -> None:
        self._directory = directory
        self._prefix = f"{stream}."
        self._start = -1
        self._fd = -1

    def close(self) -> None:
        """Free the open segment."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def starts(self) -> list[int]:
        """The offsets at which the present segments start, ascending."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        digits = (name[len(self._prefix) :] for name in names if name.startswith(self._prefix))
        return sorted(int(text) for text in digits if len(text) == 20 and text.isdecimal())

    def end(self) -> int:
        """The offset after the last byte."""
        for start in reversed(self.starts()):
            with contextlib.suppress(FileNotFoundError):
                return start + os.stat(self._path(start)).st_size
        return 0

    def read(self, offset: int, *, size: int = BLOCK_BYTES) -> tuple[int, bytes]:
        """Bytes at *offset*, and where they really start: later, when rotation took the ones asked for; b"" at the end.

        A segment that was rotated away while it was being read is still read to its end.
        """
        while True:
            if self._fd < 0 and not self._open(offset):
                return offset, b""
            offset = max(offset, self._start)
            if data := os.pread(self._fd, size, offset - self._start):
                return offset, data
            following = next((start for start in self.starts() if start > self._start), None)
            if following is None:
                return offset, b""
            # The next segment exists, so this one is final: what came between the two looks is the rest of it.
            if data := os.pread(self._fd, size, offset - self._start):
                return offset, data
            self.close()
            offset = max(offset, following)

    def backwards(self) -> Iterator[tuple[int, bytes]]:
        """Blocks with their offsets from the end to the start; stops where rotation is faster."""
        for start in reversed(self.starts()):
            try:
                fd = os.open(self._path(start), _FLAGS)
            except FileNotFoundError:
                return
            try:
                position = os.fstat(fd).st_size
                while position > 0:
                    size = min(BLOCK_BYTES, position)
                    position -= size
                    yield start + position, os.pread(fd, size, position)
            finally:
                os.close(fd)

    def modified_ns(self) -> int:
        """When the open segment was last written to, unix time in ns."""
        return os.fstat(self._fd).st_mtime_ns if self._fd >= 0 else 0

    def _open(self, offset: int) -> bool:
        """Open the segment that holds *offset*, else the oldest; False when there is none."""
        while starts := self.starts():
            start = max((start for start in starts if start <= offset), default=starts[0])
            with contextlib.suppress(FileNotFoundError):  # rotated away between the two calls
                self._fd = os.open(self._path(start), _FLAGS)
                self._start = start
                return True
        return False

    def _path(self, start: int) -> str:
        return os.path.join(self._directory, f"{self._prefix}{start:020d}")


class Index:
    """When which bytes came. Follows the rewritten file after a rotation. Close it."""

    def __init__(self, directory: str, stream: str) -> None:
        self._path = os.path.join(directory, f"{stream}.index")
        self._fd = -1
        self._buffer = b""
        self._position = 0
        """Number of the record after the buffered ones."""
        self._taken = 0
        self._current: tuple[int, int] | None = None

    def close(self) -> None:
        """Free the open file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def time_of(self, offset: int) -> int | None:
        """Time of the batch that brought the byte at *offset*, ns; None when not recorded. Ask in ascending order."""
        while self._current is None or self._current[0] <= offset:
            if not self._advance():
                return None
        return self._current[1]

    @property
    def reached(self) -> int:
        """The end of the batch that `time_of` last told the time of; 0 before."""
        return self._current[0] if self._current is not None else 0

    def first_offset_since(self, time_ns: int) -> tuple[int, bool]:
        """Offset of the first byte that came at *time_ns* or later, and whether such a record exists.

        Without one the offset is the end of what is recorded.
        """
        if not self._reopen():
            return 0, False
        low, high = 0, self._count()
        count = high
        while low < high:
            middle = (low + high) // 2
            if self._record(middle)[1] < time_ns:
                low = middle + 1
            else:
                high = middle
        return (self._record(low - 1)[0] if low else 0), low < count

    def _advance(self) -> bool:
        if self._taken == len(self._buffer) and not self._fill():
            return False
        self._current = _RECORD.unpack_from(self._buffer, self._taken)
        self._taken += _RECORD.size
        return True

    def _fill(self) -> bool:
        """The next records; from the new file, after those seen, when the keeper has rewritten the index."""
        if self._fd < 0 and not self._reopen():
            return False
        if not (data := self._block()):
            if self._is_current() or not self._reopen():
                return False
            self._position = self._after(self._current[0] if self._current else 0)
            if not (data := self._block()):
                return False
        self._buffer, self._taken = data, 0
        self._position += len(data) // _RECORD.size
        return True

    def _block(self) -> bytes:
        data = os.pread(self._fd, BLOCK_BYTES, self._position * _RECORD.size)
        return data[: len(data) - len(data) % _RECORD.size]

    def _reopen(self) -> bool:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._fd = os.open(self._path, _FLAGS)
        return self._fd >= 0

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _count(self) -> int:
        return os.fstat(self._fd).st_size // _RECORD.size

    def _record(self, number: int) -> tuple[int, int]:
        offset, time_ns = _RECORD.unpack(os.pread(self._fd, _RECORD.size, number * _RECORD.size))
        return offset, time_ns

    def _after(self, offset: int) -> int:
        low, high = 0, self._count()
        while low < high:
            middle = (low + high) // 2
            if self._record(middle)[0] <= offset:
                low = middle + 1
            else:
                high = middle
        return low
