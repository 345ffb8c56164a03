"""Output of sandboxes: bytes go from a named pipe into segment files by splice(2), never through this process.

A pipe is a FIFO on tmpfs that the program holds open for reading and writing, so it never sees a broken pipe, and the next keeper opens it again
by name with all its bytes. The kernel takes bytes out of the pipe only when the file has them: kill -9 anywhere loses and doubles nothing.

Files of one stream in the sandbox's log directory:
- `<stream>.<20 digits>`: a segment, named by the stream offset of its first byte.
- `<stream>.index`: records `<QQ`: the stream offset reached, and the time in nanoseconds, one after each batch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from dataclasses import dataclass

from skerry_node.kernel import syscalls

INDEX_RECORD = struct.Struct("<QQ")
BATCH_BYTES = 1 << 16
"""The default capacity of a pipe: one batch empties it."""
STREAMS = ("stdout", "stderr")
MAX_RECORDS = 65_536
"""A segment ends after this many batches too, so that a program that writes single bytes cannot make the index large."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of each stream is kept: *segments* files of *segment_bytes*."""

    segment_bytes: int
    segments: int


class Stream:
    """One stream of one sandbox: the pipe's reading end, and the segment that is being written. Files appear with the first byte."""

    def __init__(self, name: str, *, pipe_fd: int, logs_fd: int, uid: str, bounds: Bounds) -> None:
        self.name = name
        self.pipe_fd = pipe_fd
        self._logs_fd = logs_fd
        self._uid = uid
        self._bounds = bounds
        self._directory_fd = -1
        self._starts: list[int] = []
        self._segment_fd = -1
        self._index_fd = -1
        self._size = 0
        self._records = 0

    def pump(self) -> bool | None:
        """Move one batch. True: bytes moved; False: nothing there now; None: the last writer is gone and the pipe is empty."""
        if self._segment_fd < 0 and not self._open_files():
            return self._discard()
        try:
            moved = self._splice()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise
            return self._discard()
        if moved == 0:
            return None
        self._size += moved
        self._records += 1
        os.write(self._index_fd, INDEX_RECORD.pack(self._starts[-1] + self._size, time.time_ns()))
        if self._size >= self._bounds.segment_bytes or self._records >= MAX_RECORDS:
            self._start_segment(self._starts[-1] + self._size)
        return True

    def close(self) -> None:
        """Close the pipe and the files."""
        for fd in (self.pipe_fd, self._segment_fd, self._index_fd, self._directory_fd):
            if fd >= 0:
                os.close(fd)

    def _open_files(self) -> bool:
        """Go on where an earlier start, or keeper, ended; False when the disk has no room for it."""
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._uid, 0o700, dir_fd=self._logs_fd)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._directory_fd = os.open(self._uid, flags, dir_fd=self._logs_fd)
            self._starts = sorted(
                int(entry.rpartition(".")[2])
                for entry in os.listdir(self._directory_fd)
                if entry.startswith(self.name + ".") and entry.rpartition(".")[2].isdigit()
            )
            if self._starts:
                self._open(self._starts[-1])
            else:
                self._start_segment(0)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise
            return False
        return True

    def _splice(self) -> int:
        return syscalls.splice(self.pipe_fd, self._segment_fd, offset=self._size, count=BATCH_BYTES)

    def _discard(self) -> bool | None:
        """The disk is full: give up the oldest segment, or else the bytes themselves, so that the program never blocks on us."""
        if len(self._starts) > 1:
            self._drop_oldest()
            return True
        try:
            return bool(os.read(self.pipe_fd, BATCH_BYTES)) or None
        except BlockingIOError:
            return False

    def _segment(self, start: int) -> str:
        return f"{self.name}.{start:020d}"

    def _open(self, start: int) -> None:
        if self._segment_fd >= 0:
            os.close(self._segment_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._segment_fd = os.open(self._segment(start), flags, 0o600, dir_fd=self._directory_fd)
        self._size = os.fstat(self._segment_fd).st_size
        if self._index_fd < 0:
            self._index_fd = os.open(f"{self.name}.index", flags | os.O_APPEND, 0o600, dir_fd=self._directory_fd)
            self._complete_index(start)

    def _complete_index(self, start: int) -> None:
        """After a crash: cut a torn record, and time-stamp the bytes that came after the last one."""
        size = os.fstat(self._index_fd).st_size
        os.ftruncate(self._index_fd, size - size % INDEX_RECORD.size)
        stat = os.fstat(self._segment_fd)
        if stat.st_size:
            os.write(self._index_fd, INDEX_RECORD.pack(start + stat.st_size, stat.st_mtime_ns))

    def _start_segment(self, start: int) -> None:
        self._open(start)
        self._records = 0
        self._starts.append(start)
        while len(self._starts) > self._bounds.segments:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._segment(self._starts.pop(0)), dir_fd=self._directory_fd)
        self._rewrite_index()

    def _rewrite_index(self) -> None:
        """Forget the times of bytes that are gone."""
        oldest = self._starts[0]
        fd = os.open(f"{self.name}.index", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory_fd)
        with os.fdopen(fd, "rb") as file:
            records = [record for record in INDEX_RECORD.iter_unpack(file.read()) if record[0] > oldest]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fresh = os.open(f"{self.name}.index.tmp", flags, 0o600, dir_fd=self._directory_fd)
        os.write(fresh, b"".join(INDEX_RECORD.pack(*record) for record in records))
        os.rename(
            f"{self.name}.index.tmp", f"{self.name}.index",
            src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd,
        )  # fmt: skip
        os.close(self._index_fd)
        self._index_fd = fresh


def ensure_pipes(directory_fd: int) -> None:
    """Make the FIFOs of both streams in a sandbox's runtime directory."""
    for name in STREAMS:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(name, 0o600, dir_fd=directory_fd)


def open_streams(runtime_fd: int, logs_fd: int, uid: str, bounds: Bounds) -> tuple[Stream, ...]:
    """The streams of *uid*: reading ends of its pipes; they write into its directory below *logs_fd*."""
    return tuple(
        Stream(
            name, pipe_fd=os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=runtime_fd), logs_fd=logs_fd, uid=uid,
            bounds=bounds,
        )
        for name in STREAMS
    )  # fmt: skip


def open_writing_ends(runtime_fd: int, owner: int) -> list[int]:
    """Writing ends for the program, owned by host id *owner* so that /dev/stdout can be opened anew inside."""
    fds = []
    for name in STREAMS:
        os.chown(name, owner, owner, dir_fd=runtime_fd, follow_symlinks=False)
        fds.append(os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=runtime_fd))
    return fds
