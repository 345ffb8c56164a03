"""A tar as a tree: the build context, and what ADD unpacks. The archive stays one anonymous file; nothing in it becomes a path on the host.

A member that would be a whiteout in a layer, goes up with `..` or lies below something that is no directory is an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from skerry_node.build import trees
from skerry_node.build.errors import InvalidContext
from skerry_node.image import tar
from skerry_node.image.errors import InvalidLayer

MAX_BYTES = 8 << 30
"""Of a context, and of an archive unpacked by ADD."""
_PIECE_BYTES = 1 << 20
_MAX_NAME = 255


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
