"""Holes of a file that is written to a tar, told by its content alone: how it lies on its disk is no part of the image."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator

from skerry_node.image import tar, tarwriting

HOLE_BYTES = 1 << 20
"""A hole is a whole aligned MiB of zeros, so a smaller file has none."""
_ZEROS = bytes(HOLE_BYTES)


def find_content(fd: int, size: int) -> tarwriting.Content:
    """The first *size* bytes of the file at *fd*, with its holes; zeros for what it lacks. Reads a large file twice."""
    if size < HOLE_BYTES or size > tar.MAX_TOTAL_BYTES:
        return tarwriting.Content(_read(fd, [(0, size)]))
    extents = list(find_extents(fd, size))
    return tarwriting.Content(_read(fd, extents), extents=None if extents == [(0, size)] else extents)


def find_content_of(read: Callable[[], Iterable[bytes]], size: int) -> tarwriting.Content:
    """Content that can only be read from its start, in whole pieces of HOLE_BYTES but for the last."""
    if size < HOLE_BYTES:
        return tarwriting.Content(read())
    extents: list[tuple[int, int]] = []
    offset = 0
    for piece in read():
        if piece != _ZEROS:
            start, length = extents[-1] if extents and sum(extents[-1]) == offset else (offset, 0)
            extents[len(extents) - bool(length) :] = [(start, length + len(piece))]
        offset += len(piece)
    if extents == [(0, size)]:
        return tarwriting.Content(read())
    return tarwriting.Content((piece for piece in read() if piece != _ZEROS), extents=extents)


def find_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Give what is not a hole, in pieces that meet nowhere. Reads the file, but for what the filesystem knows to be empty."""
    start, position = None, 0
    while position < size:
        data = _next_data(fd, position, size) // HOLE_BYTES * HOLE_BYTES
        if data <= position:
            piece = os.pread(fd, HOLE_BYTES, position)
            is_hole = piece == _ZEROS
            data = position + HOLE_BYTES
        else:
            is_hole = True
        if is_hole and start is not None:
            yield start, position - start
            start = None
        elif not is_hole and start is None:
            start = position
        position = data
    if start is not None:
        yield start, size - start


def _next_data(fd: int, position: int, size: int) -> int:
    """Where data comes next; *size* when there is none any more (ENXIO, lseek(2)), *position* when the filesystem does not say."""
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else position


def _read(fd: int, extents: list[tuple[int, int]]) -> Iterator[bytes]:
    for offset, length in extents:
        done = 0
        while done < length:
            count = min(HOLE_BYTES, length - done)
            piece = os.pread(fd, count, offset + done) or bytes(count)  # cut meanwhile: later pieces must stay in their places
            yield piece
            done += len(piece)
