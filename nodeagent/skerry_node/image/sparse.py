"""Maps of sparse files in a tar: GNU's old format, and the pax formats 0.1 and 1.0. Pure but for the reads that it is given.

Source: GNU tar's manual, "Storing Sparse Files".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skerry_node.image import headers
from skerry_node.image.errors import InvalidLayer

MAX_EXTENTS = 65_536
_MAX_DIGITS = 19
_OLD_FIRST, _OLD_MORE, _OLD_PAIR = 4, 21, 24


@dataclass(frozen=True, slots=True)
class Map:
    """Where the stored bytes belong: (offset, length) in order, within *size_bytes*."""

    size_bytes: int
    extents: tuple[tuple[int, int], ...]


def read_old_map(header: bytes, read_block: Callable[[], bytes], stored: int) -> Map:
    """Give the map in a header of type S and the blocks that follow it. Raises InvalidLayer."""
    numbers = list(_old_numbers(header[386 : 386 + _OLD_FIRST * _OLD_PAIR]))
    size, has_more = _octal(header[483:495]), header[482] not in b"\x000"
    while has_more:
        block = read_block()
        numbers += _old_numbers(block[: _OLD_MORE * _OLD_PAIR])
        has_more = block[504] not in b"\x000"
        if len(numbers) > 2 * MAX_EXTENTS:
            raise InvalidLayer("a sparse file in more than 65,536 pieces")
    return _checked(size, numbers, stored)


def parse_map(pax: dict[bytes, bytes], stored: int) -> Map:
    """Give the map of format 0.1, all in the pax header. Raises InvalidLayer."""
    text = pax[b"GNU.sparse.map"]
    return _checked(_decimal(pax.get(b"GNU.sparse.size", b"")), [_decimal(n) for n in text.split(b",") if n], stored)


def read_map(pax: dict[bytes, bytes], read_block: Callable[[], bytes], left: Callable[[], int]) -> Map:
    """Give the map of format 1.0, which precedes the content in whole blocks. Raises InvalidLayer."""
    if (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor")) != (b"1", b"0"):
        raise InvalidLayer("a sparse file of an unknown format")
    lines = _lines(read_block)
    count = _decimal(next(lines))
    if count > MAX_EXTENTS:
        raise InvalidLayer("a sparse file in more than 65,536 pieces")
    numbers = [_decimal(line) for line in itertools.islice(lines, 2 * count)]
    return _checked(_decimal(pax.get(b"GNU.sparse.realsize", b"")), numbers, left())


def _lines(read_block: Callable[[], bytes]) -> Iterator[bytes]:
    text = b""
    while True:
        line, found, rest = text.partition(b"\n")
        if found:
            yield line
            text = rest
        elif len(text) > _MAX_DIGITS:
            raise InvalidLayer("a sparse file's map has a number that is none")
        else:
            text += read_block()


def _old_numbers(part: bytes) -> Iterator[int]:
    for start in range(0, len(part), _OLD_PAIR):
        if part[start] == 0:
            return
        yield _octal(part[start : start + 12])
        yield _octal(part[start + 12 : start + 24])


def _octal(part: bytes) -> int:
    if part[0] == 0x80:
        return int.from_bytes(part[1:], "big")
    return headers.parse_octal(part)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise InvalidLayer("a sparse file's map has a number that is none")
    return int(text)


def _checked(size: int, numbers: list[int], stored: int) -> Map:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_EXTENTS:
        raise InvalidLayer("a sparse file's map makes no sense")
    extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    position = total = 0
    for offset, length in extents:
        if offset < position:
            raise InvalidLayer("a sparse file's map goes backwards")
        position, total = offset + length, total + length
    if position > size or total != stored:
        raise InvalidLayer("a sparse file's map does not fit its size")
    return Map(size_bytes=size, extents=extents)
