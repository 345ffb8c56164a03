"""A writer of tar, deterministic: one tree, one sequence of bytes. ustar headers, with pax records only where a field does not hold the value.

Source: pax(1) of POSIX.1-2024; GNU tar's manual, "Storing Sparse Files" (format 1.0). `tar.py` is its counterpart and bounds what is written.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from skerry_node.image import headers, tar
from skerry_node.image.errors import InvalidTree

_NAME_BYTES, _MAX_OCTAL_7, _MAX_OCTAL_11 = 100, 8**7 - 1, 8**11 - 1
_PAX_NAME = b"././@PaxHeader"
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARDLINK = b"1"
_ZEROS = bytes(1 << 20)
_RECORD_BYTES = 10_240
"""The end of an archive is filled up to twenty blocks, as every tar does."""


class Output(Protocol):
    """Where the bytes go, in order."""

    def write(self, data: bytes, /) -> object:
        """Take all of *data*."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """A regular file's bytes: *pieces* are those of *extents*, (offset, length) in order; what lies between is zeros.

    Without extents the pieces are the whole file. Every length but the last must be whole blocks: GNU tar fills them up.
    """

    pieces: Iterable[bytes]
    extents: Sequence[tuple[int, int]] | None = None


class Writer:
    """Writes members in the order in which they come. Raises InvalidTree beyond the bounds that `tar.Reader` has."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._headers = 0
        self._content_bytes = 0
        self.size_bytes = 0

    def add(self, entry: tar.Entry, content: Content | None = None) -> None:
        """Append *entry*; a regular file of a size has *content*, of which exactly that size is written: cut, or filled with zeros."""
        if len(entry.path) >= tar.MAX_PATH_BYTES or len(entry.target) >= tar.MAX_PATH_BYTES:
            raise InvalidTree(f"the path {entry.path[:80]!r} is longer than {tar.MAX_PATH_BYTES} bytes")
        self._content_bytes += entry.size
        if self._content_bytes > tar.MAX_TOTAL_BYTES:
            raise InvalidTree(f"the files have more than {tar.MAX_TOTAL_BYTES} bytes together")
        records = _records(entry)
        sparse_map, stored = b"", entry.size
        if content is not None and content.extents is not None:
            sparse_map = _render_map(content.extents, entry.size)
            stored = len(sparse_map) + sum(length for _, length in content.extents)
            records += ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", entry.path))
            records += ((b"GNU.sparse.realsize", b"%d" % entry.size),)
        if stored > _MAX_OCTAL_11:
            records += ((b"size", b"%d" % stored),)
        if records:
            self._write_pax(sorted(records))
        self._write_header(_render_header(entry, stored))
        if stored:
            self._write(sparse_map)
            self._write_content(content.pieces if content is not None else (), stored - len(sparse_map))
            self._write(bytes(-stored % tar.BLOCK))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * tar.BLOCK))
        self._write(bytes(-self.size_bytes % _RECORD_BYTES))

    def _write_pax(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        body = b"".join(_render_record(key, value) for key, value in records)
        if len(body) > tar.MAX_EXTENSION_BYTES:
            raise InvalidTree(f"a pax header of {len(body)} bytes")
        self._write_header(_render_fields(_PAX_NAME, b"x", mode=0o644, size=len(body)))
        self._write(body + bytes(-len(body) % tar.BLOCK))

    def _write_header(self, header: bytes) -> None:
        self._headers += 1
        if self._headers > tar.MAX_ENTRIES:
            raise InvalidTree(f"the tree has more than {tar.MAX_ENTRIES} entries")
        self._write(header)

    def _write_content(self, pieces: Iterable[bytes], length: int) -> None:
        for piece in pieces:
            if length <= 0:
                break
            self._write(piece[:length])
            length -= len(piece)
        while length > 0:
            self._write(_ZEROS[:length])
            length -= len(_ZEROS)

    def _write(self, data: bytes) -> None:
        if data:
            self._out.write(data)
            self.size_bytes += len(data)


def _records(entry: tar.Entry) -> tuple[tuple[bytes, bytes], ...]:
    """The pax records for what the header's own fields do not hold."""
    records = [(b"SCHILY.xattr." + name, value) for name, value in entry.xattrs]
    for key, text in ((b"path", entry.path), (b"linkpath", entry.target)):
        if len(text) > _NAME_BYTES:
            records.append((key, text))
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number > _MAX_OCTAL_7:
            records.append((key, b"%d" % number))
    seconds, nanoseconds = divmod(entry.mtime_ns, 1_000_000_000)
    if nanoseconds or not 0 <= seconds <= _MAX_OCTAL_11:
        records.append((b"mtime", render_time(entry.mtime_ns)))
    if sum(len(name) + len(value) + 8 for name, value in entry.xattrs) > headers.MAX_XATTRS_BYTES:
        raise InvalidTree(f"{entry.path[:80]!r} has too many extended attributes")
    return tuple(records)


def render_time(time_ns: int) -> bytes:
    """Give seconds with as many digits of a fraction as there are."""
    sign = b"-" if time_ns < 0 else b""
    seconds, nanoseconds = divmod(abs(time_ns), 1_000_000_000)
    fraction = b".%09d" % nanoseconds if nanoseconds else b""
    return sign + b"%d" % seconds + fraction.rstrip(b"0")


def _render_record(key: bytes, value: bytes) -> bytes:
    """Give one record, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %s=%s\n" % (length, key, value)


def _render_map(extents: Sequence[tuple[int, int]], size: int) -> bytes:
    """Give the map in whole blocks. A hole at the end is told by an empty piece, as GNU tar wants it."""
    end = sum(extents[-1]) if extents else 0
    pieces = [*extents, (size, 0)] if end < size else list(extents)
    text = b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % piece for piece in pieces)
    return text + bytes(-len(text) % tar.BLOCK)


def _render_header(entry: tar.Entry, stored: int) -> bytes:
    kind = _HARDLINK if entry.is_hardlink else _KINDS[stat.S_IFMT(entry.mode)]
    seconds = entry.mtime_ns // 1_000_000_000
    return _render_fields(
        entry.path, kind, mode=stat.S_IMODE(entry.mode), owner=(entry.uid, entry.gid), size=stored,
        seconds=seconds if 0 <= seconds <= _MAX_OCTAL_11 else 0, target=entry.target, device=entry.device,
    )  # fmt: skip


def _render_fields(
    path: bytes, kind: bytes, *, mode: int, size: int, owner: tuple[int, int] = (0, 0), seconds: int = 0, target: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:  # fmt: skip
    uid, gid = (number if number <= _MAX_OCTAL_7 else 0 for number in owner)
    header = b"".join(
        (
            path[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), b"%07o\0%07o\0%07o\0" % (mode, uid, gid),
            b"%011o\0%011o\0" % (size if size <= _MAX_OCTAL_11 else 0, seconds), b" " * 8, kind, target[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
            b"ustar\x0000", bytes(64), b"%07o\0%07o\0" % device, bytes(tar.BLOCK - 345),
        )
    )  # fmt: skip
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
