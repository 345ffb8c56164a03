"""A streaming reader of tar: ustar, PAX, GNU long names and sparse files.

Every number and length is bounded; Python's tarfile is never used.

Source: pax(1) of POSIX.1-2024; tar(5) of FreeBSD and GNU tar's manual for the rest.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from skerry_node.image import headers, sparse
from skerry_node.image.errors import InvalidLayer

BLOCK = 512
MAX_ENTRIES = 500_000
"""Headers of any kind in one layer. Index and writer take about 390 bytes for each: a layer stays within 256 MiB."""
MAX_TOTAL_BYTES = 64 << 30
MAX_HOLE_BYTES = 8 << 30
"""Holes cost no disk, but the seal reads them."""
MAX_EXTENTS = 1_000_000
MAX_PATH_BYTES = 4096
MAX_EXTENSION_BYTES = 1 << 20
_HEADER = struct.Struct("100s24s12s12s8xc100s8s64x8s8s155s12x")
"""name; mode, uid and gid in one; size, mtime, type, linkname, magic and version, device major and minor, prefix. The checksum is left out."""
_PIECE_BYTES = 1 << 20
_SMALL_BYTES = 16 << 10
"""Most files: read in one go, which saves the machinery of pieces."""
_REGULAR, _HARDLINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULARS, _LINKS, _DEVICES = frozenset({b"0", b"\0", b"7", b"S"}), frozenset({_HARDLINK, _SYMLINK}), frozenset({_CHARACTER, _BLOCK})
_EXTENSIONS = frozenset({b"x", b"g", b"L", b"K", b"X", b"N", b"V", b"M"})
_KINDS = {
    _CHARACTER: stat.S_IFCHR,
    _BLOCK: stat.S_IFBLK,
    _DIRECTORY: stat.S_IFDIR,
    _FIFO: stat.S_IFIFO,
    _SYMLINK: stat.S_IFLNK,
}
# Attributes are read of regular files and directories only: the kernel knows user.* on no others (fs/xattr.c, xattr_permission)


class Stream(Protocol):
    """Bytes in order; fewer than asked only at the end."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, fewer only at the end. A method `read_some`, which may give fewer at any time, is used for content."""
        ...


class Entry(NamedTuple):
    """One member. `mode` has the file type's bits, or 0 there for a hard link to `target`. Times are nanoseconds."""

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    is_hardlink: bool = False
    is_sparse: bool = False


@dataclass(slots=True)
class _Extensions:
    """What extension headers say of the next member."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    path: bytes | None = None
    target: bytes | None = None
    size: int = 0
    is_used: bool = False


class Reader:
    """Iterate over the members; read the content of a regular file before going on (what is left of it is skipped)."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._read_some: Callable[[int], bytes | memoryview] = getattr(stream, "read_some", stream.read)
        self._left = 0
        self._padding = 0
        self._entries = 0
        self._total_bytes = 0
        self._hole_bytes = 0
        self._extents = 0
        self._sparse: sparse.Map | None = None

    def __iter__(self) -> Iterator[Entry]:
        extensions = _Extensions()
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            if kind in _EXTENSIONS:
                self._read_extension(header, kind, extensions)
                continue
            yield self._entry(header, extensions)
            if extensions.is_used:
                extensions = _Extensions()
            if self._left or self._padding:
                self._skip_content()

    def read_content(self) -> Iterable[bytes | memoryview | int]:
        """Give the current member's content in pieces; a number is a hole of so many bytes."""
        if self._sparse is not None:
            return self._read_sparse(self._sparse)
        return (self._read_small(),) if self._left <= _SMALL_BYTES else self._read(self._left)

    def _read_small(self) -> bytes:
        length, self._left = self._left, 0
        content = self._stream.read(length)
        if len(content) < length:
            raise InvalidLayer("the tar ends inside a file")
        return content

    def _read_sparse(self, content: sparse.Map) -> Iterator[bytes | memoryview | int]:
        position = 0
        for offset, length in content.extents:
            if offset > position:
                yield offset - position
            yield from self._read(length)
            position = offset + length
        if content.size_bytes > position:
            yield content.size_bytes - position

    def _read(self, length: int) -> Iterator[bytes | memoryview]:
        while length:
            piece = self._read_some(min(length, _PIECE_BYTES))
            if not piece:
                raise InvalidLayer("the tar ends inside a file")
            self._left -= len(piece)
            length -= len(piece)
            yield piece

    def _next_header(self) -> bytes | None:
        header = self._stream.read(BLOCK)
        if len(header) < BLOCK:
            if header:
                raise InvalidLayer("the tar ends inside a header")
            return None
        if header[0] == 0 and header.count(0) == BLOCK:
            return None
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise InvalidLayer(f"the layer has more than {MAX_ENTRIES} entries")
        checksum = header[148:156]
        if headers.parse_number(checksum) != _sum(header) - sum(checksum) + 8 * 0x20:
            raise InvalidLayer("a tar header has a wrong checksum")
        return header

    def _entry(self, header: bytes, extensions: _Extensions) -> Entry:
        name, numbers, size, mtime, kind, link, magic, major, minor, prefix = _HEADER.unpack(header)
        path = _path(name, prefix, magic, extensions)
        if kind == b"\0" and path.endswith(b"/"):
            kind = _DIRECTORY  # before POSIX, the slash said it
        if kind in _REGULARS:
            return self._regular(header, (path, kind, numbers, size, mtime), extensions.pax)
        if kind not in _KINDS and kind != _HARDLINK:
            raise InvalidLayer(f"a tar member of unknown type {kind!r}")
        self._left, self._padding, self._sparse = 0, 0, None
        pax = extensions.pax
        mode, uid, gid, mtime_ns = headers.parse_ownership(numbers, mtime, pax)
        return Entry(
            path,
            mode if kind == _HARDLINK else mode | _KINDS[kind],
            uid,
            gid,
            mtime_ns,
            0,
            _target(link, extensions, kind) if kind in _LINKS else b"",
            headers.parse_device(major, minor) if kind in _DEVICES else (0, 0),
            headers.parse_xattrs(pax) if pax and kind == _DIRECTORY else (),
            kind == _HARDLINK,
        )

    def _regular(self, header: bytes, fields: tuple[bytes, bytes, bytes, bytes, bytes], pax: dict[bytes, bytes]) -> Entry:
        path, kind, numbers, size, mtime = fields
        stored = headers.pax_number(pax, b"size", headers.parse_number(size))
        self._left, self._padding = stored, -stored % BLOCK
        self._sparse = self._read_sparse_map(header, pax, is_old=kind == b"S") if pax or kind == b"S" else None
        self._extents += len(self._sparse.extents) if self._sparse is not None else 0
        if self._extents > MAX_EXTENTS:
            raise InvalidLayer(f"the layer's sparse files have more than {MAX_EXTENTS} pieces")
        total = self._sparse.size_bytes if self._sparse is not None else stored
        self._total_bytes += total
        self._hole_bytes += max(total - stored, 0)
        if self._total_bytes > MAX_TOTAL_BYTES or self._hole_bytes > MAX_HOLE_BYTES:
            raise InvalidLayer(f"the layer's files have more than {MAX_TOTAL_BYTES} bytes, or more than {MAX_HOLE_BYTES} in holes")
        mode, uid, gid, mtime_ns = headers.parse_ownership(numbers, mtime, pax)
        xattrs = headers.parse_xattrs(pax) if pax else ()
        return Entry(path, stat.S_IFREG | mode, uid, gid, mtime_ns, total, b"", (0, 0), xattrs, False, self._sparse is not None)  # noqa: FBT003 - by place: twice as fast

    def _read_sparse_map(self, header: bytes, pax: dict[bytes, bytes], *, is_old: bool) -> sparse.Map | None:
        if is_old:
            return sparse.read_old_map(header, self._read_whole_block, self._left)
        if b"GNU.sparse.major" in pax:
            return sparse.read_map(pax, self._read_map_block, lambda: self._left)
        if b"GNU.sparse.map" in pax:
            return sparse.parse_map(pax, self._left)
        if b"GNU.sparse.numblocks" in pax:
            raise InvalidLayer("a sparse file in the format that only GNU tar 1.15.90 wrote")
        return None

    def _read_whole_block(self) -> bytes:
        block = self._read_block()
        if block is None:
            raise InvalidLayer("the tar ends inside a header")
        return block

    def _read_map_block(self) -> bytes:
        if self._left < BLOCK:
            raise InvalidLayer("a sparse file's map is cut short")
        self._left -= BLOCK
        return self._read_whole_block()

    def _read_extension(self, header: bytes, kind: bytes, extensions: _Extensions) -> None:
        extensions.is_used = True
        size = headers.parse_number(header[124:136])
        extensions.size += size
        if extensions.size > MAX_EXTENSION_BYTES:
            raise InvalidLayer(f"a tar extension header of {extensions.size} bytes")
        self._left, self._padding = size, -size % BLOCK
        self._sparse = None
        body = b"".join(self._read(size))
        self._skip_content()
        if kind in b"xX":
            extensions.pax.update(headers.parse_pax(body))
        elif kind == b"L":
            extensions.path = body.rstrip(b"\0")
        elif kind == b"K":
            extensions.target = body.rstrip(b"\0")

    def _skip_content(self) -> None:
        if self._left:
            for _ in self._read(self._left):
                pass
        if self._padding:
            self._stream.read(self._padding)
            self._padding = 0

    def _read_block(self) -> bytes | None:
        block = self._stream.read(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            raise InvalidLayer("the tar ends inside a header")
        return block


def _sum(header: bytes) -> int:
    """Sum of the bytes: Adler-32's lower half is one more (RFC 1950), modulo 65,521, which 256 bytes do not reach."""
    return (zlib.adler32(header[:256]) & 0xFFFF) + (zlib.adler32(header[256:]) & 0xFFFF) - 2


def _path(name: bytes, prefix: bytes, magic: bytes, extensions: _Extensions) -> bytes:
    path = None
    if extensions.is_used:
        path = extensions.pax.get(b"GNU.sparse.name") or extensions.pax.get(b"path") or extensions.path
    if not path:
        path = headers.parse_text(name)
        if prefix[0] and magic[:6] == b"ustar\0":  # GNU's own format keeps times there
            path = headers.parse_text(prefix) + b"/" + path
    if len(path) > MAX_PATH_BYTES or b"\0" in path:
        raise InvalidLayer("a path is too long or has a NUL")
    return path


def _target(link: bytes, extensions: _Extensions, kind: bytes) -> bytes:
    target = extensions.pax.get(b"linkpath") or extensions.target or headers.parse_text(link)
    if not target or b"\0" in target or len(target) >= MAX_PATH_BYTES:
        raise InvalidLayer("a link's target is empty, too long or has a NUL")
    return target.rstrip(b"/") or target if kind == _HARDLINK else target
