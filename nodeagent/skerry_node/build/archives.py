"""A tar as a tree: the build context, and what ADD unpacks. The archive stays one anonymous file; nothing in it becomes a path on the host.

A member that would be a whiteout in a layer, goes up with `..` or lies below something that is no directory is an error.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import zstandard
from isal import igzip

from skerry_node.build import trees
from skerry_node.build.errors import InvalidContext
from skerry_node.image import headers, tar
from skerry_node.image.errors import InvalidLayer

MAX_BYTES = 8 << 30
"""Of a context, and of an archive unpacked by ADD."""
MAX_RATIO, RATIO_FREE_BYTES = 400, 64 << 20
"""An archive may grow 400 times when it is unpacked, once it is larger than 64 MiB, as a layer may."""
_PIECE_BYTES = 1 << 20
_ZSTD_WINDOW_BYTES = 128 << 20
_LZMA_BYTES = 128 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MAX_NAME = 255
_UNREADABLE = (EOFError, OSError, zstandard.ZstdError, lzma.LZMAError, igzip.BadGzipFile)


class Archive:
    """The tree in the uncompressed tar in *file*, a regular file that is read by offset. Raises InvalidContext."""

    def __init__(self, file: BinaryIO, *, what: str) -> None:
        self._file = file
        self._what = what
        self.root = _Member(self._file.fileno(), tar.Entry(path=b"", mode=stat.S_IFDIR | 0o755, uid=0, gid=0, mtime_ns=0))
        stream = _Counting(file)
        try:
            for entry in tar.Reader(stream):
                self._add(entry, stream.position)
        except InvalidLayer as error:
            raise InvalidContext(f"{what}: {error}") from error

    def close(self) -> None:
        """Give the file up."""
        self._file.close()

    def _add(self, entry: tar.Entry, offset: int) -> None:
        parts = trees.split(entry.path)
        if not parts:
            if stat.S_ISDIR(entry.mode):
                self.root.entry = entry
            return
        if len(parts) > trees.MAX_PARTS or b".." in parts or any(len(part) > _MAX_NAME for part in parts):
            raise InvalidContext(f"{self._what}: the path {entry.path[:80]!r} goes up, or is too long")
        parent = self._directory(parts[:-1], entry.path)
        if entry.is_sparse and entry.size:
            raise InvalidContext(f"{self._what}: {entry.path[:80]!r} is a sparse file; pack it without --sparse")
        if entry.is_hardlink:
            parent.inner[parts[-1]] = self._linked(entry)
            return
        old = parent.inner.get(parts[-1])
        node = _Member(self._file.fileno(), entry, offset=offset)
        if stat.S_ISDIR(entry.mode) and old is not None and stat.S_ISDIR(old.mode):
            node.inner = old.inner
        parent.inner[parts[-1]] = node

    def _directory(self, parts: list[bytes], path: bytes) -> _Member:
        here = self.root
        for part in parts:
            child = here.inner.get(part)
            if child is None:
                child = here.inner[part] = _Member(self._file.fileno(), tar.Entry(path=part, mode=stat.S_IFDIR | 0o755, uid=0, gid=0, mtime_ns=0))
            if not stat.S_ISDIR(child.mode):
                raise InvalidContext(f"{self._what}: {path[:80]!r} lies below something that is no directory")
            here = child
        return here

    def _linked(self, entry: tar.Entry) -> _Member:
        here: _Member | None = self.root
        for part in trees.split(entry.target):
            here = here.inner.get(part) if here is not None else None
        if here is None or stat.S_ISDIR(here.mode):
            raise InvalidContext(f"{self._what}: the hard link {entry.path[:80]!r} points to nothing")
        here.links += 1
        return here


@dataclass(slots=True, eq=False)
class _Member:
    """A member of the archive, as trees.Node."""

    fd: int
    entry: tar.Entry
    offset: int = 0
    links: int = 1
    inner: dict[bytes, _Member] = field(default_factory=dict)

    @property
    def mode(self) -> int:
        return self.entry.mode

    @property
    def uid(self) -> int:
        return self.entry.uid

    @property
    def gid(self) -> int:
        return self.entry.gid

    @property
    def mtime_ns(self) -> int:
        return self.entry.mtime_ns

    @property
    def size(self) -> int:
        return self.entry.size

    @property
    def target(self) -> bytes:
        return self.entry.target

    @property
    def device(self) -> tuple[int, int]:
        return self.entry.device

    @property
    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        return self.entry.xattrs

    @property
    def identity(self) -> object | None:
        return id(self) if self.links > 1 else None

    def children(self) -> Mapping[bytes, trees.Node]:
        """The directory's names."""
        return self.inner

    def read(self) -> Iterator[bytes]:
        """The content, where it lies in the archive."""
        offset, left = self.offset, self.entry.size
        while left:
            piece = os.pread(self.fd, min(left, _PIECE_BYTES), offset)
            if not piece:
                raise InvalidContext("the archive was cut short")
            yield piece
            offset, left = offset + len(piece), left - len(piece)


class _Counting:
    """A file that knows how far it was read."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file = file
        self.position = 0

    def read(self, size: int, /) -> bytes:
        piece = self._file.read(size)
        self.position += len(piece)
        return piece


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def find_archive(node: trees.Node, *, directory: str, what: str) -> Archive | None:
    """The tree in *node* when it is a tar, packed or not (by its content, as with Docker); None for all else.

    Unpacked into an anonymous file in *directory*. Raises InvalidContext for one that is damaged or grows too large.
    """
    if not stat.S_ISREG(node.mode):
        return None
    head = io.BufferedReader(_Stream(node), tar.BLOCK).peek(tar.BLOCK)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if not _begins_as_tar(kind, node):
        return None
    file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - the archive's
    try:
        _spool(_unpack(kind, node), file, what=what, limit_bytes=min(MAX_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * node.size)))
        return Archive(file, what=what)
    except BaseException:
        file.close()
        raise


def _spool(source: _Readable, file: BinaryIO, *, what: str, limit_bytes: int) -> None:
    """Write *source* to *file*. Raises InvalidContext beyond *limit_bytes*, and for what cannot be unpacked."""
    written = 0
    try:
        while piece := source.read(_PIECE_BYTES):
            written += len(piece)
            if written > limit_bytes:
                raise InvalidContext(f"{what} unpacks to more than {limit_bytes} bytes")
            file.write(piece)
    except _UNREADABLE as error:
        raise InvalidContext(f"{what} cannot be unpacked: {error}") from error
    file.flush()


def _begins_as_tar(kind: str | None, node: trees.Node) -> bool:
    """Whether the first header is one: that a file begins as gzip's do says nothing of what is in it."""
    try:
        block = _unpack(kind, node).read(tar.BLOCK)
        total = sum(block) - sum(block[148:156]) + 8 * 0x20
        return len(block) == tar.BLOCK and bool(block.strip(b"\0")) and headers.parse_number(block[148:156]) == total
    except (*_UNREADABLE, InvalidLayer):
        return False


class _Stream(io.RawIOBase):
    """A node's content as a file."""

    def __init__(self, node: trees.Node) -> None:
        super().__init__()
        self._pieces = node.read()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Decompressed:
    """bzip2 or xz, a bounded piece at a time; streams may follow one another."""

    def __init__(self, source: _Readable, make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._source, self._make = source, make
        self._inflater = make()
        self._input = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._inflater.eof:
                self._input = self._inflater.unused_data or self._source.read(_PIECE_BYTES)
                if not self._input:
                    return b""
                self._inflater = self._make()
            elif self._inflater.needs_input and not self._input:
                self._input = self._source.read(_PIECE_BYTES)
                if not self._input:
                    raise EOFError("it is cut short")
            piece = self._inflater.decompress(self._input, size)
            self._input = b""
            if piece:
                return piece


def _unpack(kind: str | None, node: trees.Node) -> _Readable:
    source = io.BufferedReader(_Stream(node), _PIECE_BYTES)
    if kind == "gzip":
        return igzip.IGzipFile(fileobj=source, mode="rb")  # type: ignore[no-any-return]
    if kind == "bzip2":
        return _Decompressed(source, bz2.BZ2Decompressor)
    if kind == "xz":
        return _Decompressed(source, lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LZMA_BYTES))
    if kind == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(source, read_across_frames=True)
    return source
