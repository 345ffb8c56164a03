"""A streaming reader of tar: ustar, PAX, GNU long names and sparse files.

Every number and length is bounded; Python's tarfile is never used.

Source: pax(1) of POSIX.1-2024; tar(5) of FreeBSD and GNU tar's manual for the rest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from skerry_node.image import headers, sparse
from skerry_node.image.errors import InvalidLayer

BLOCK = 512
MAX_ENTRIES = 500_000
"""Headers of any kind in one layer. Index and writer take about 390 bytes for each: a layer stays within 256 MiB."""
MAX_TOTAL_BYTES = 64 << 30
MAX_PATH_BYTES = 4096
MAX_EXTENSION_BYTES = 1 << 20
_REGULAR, _HARDLINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {
    _CHARACTER: stat.S_IFCHR,
    _BLOCK: stat.S_IFBLK,
    _DIRECTORY: stat.S_IFDIR,
    _FIFO: stat.S_IFIFO,
    _SYMLINK: stat.S_IFLNK,
}
_TYPED_XATTRS = {stat.S_IFREG, stat.S_IFDIR}
"""The kernel knows user.* on regular files and directories only (fs/xattr.c, xattr_permission)."""


class Stream(Protocol):
    """Bytes in order; fewer than asked only at the end."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; empty at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
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


class Reader:
    """Iterate over the members; read the content of a regular file before going on (what is left of it is skipped)."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._entries = 0
        self._total_bytes = 0
        self._sparse: sparse.Map | None = None

    def __iter__(self) -> Iterator[Entry]:
        extensions = _Extensions()
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            if kind in b"xgLKXNVM" and kind:
                self._read_extension(header, kind, extensions)
                continue
            yield self._entry(header, kind, extensions)
            extensions = _Extensions()
            self._skip_content()

    def read_content(self) -> Iterator[bytes | int]:
        """Give the current member's content in pieces; a number is a hole of so many bytes."""
        if self._sparse is None:
            yield from self._read(self._left)
            return
        position = 0
        for offset, length in self._sparse.extents:
            if offset > position:
                yield offset - position
            yield from self._read(length)
            position = offset + length
        if self._sparse.size_bytes > position:
            yield self._sparse.size_bytes - position

    def _read(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._stream.read(min(length, 1 << 20))
            if not piece:
                raise InvalidLayer("the tar ends inside a file")
            self._left -= len(piece)
            length -= len(piece)
            yield piece

    def _next_header(self) -> bytes | None:
        header = self._read_block()
        if header is None or not header.strip(b"\0"):
            return None
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise InvalidLayer(f"the layer has more than {MAX_ENTRIES} entries")
        total = sum(header) - sum(header[148:156]) + 8 * 0x20
        if headers.parse_number(header[148:156]) != total:
            raise InvalidLayer("a tar header has a wrong checksum")
        return header

    def _entry(self, header: bytes, kind: bytes, extensions: _Extensions) -> Entry:
        pax = extensions.pax
        path = self._path(header, extensions)
        if kind == b"\0" and path.endswith(b"/"):
            kind = _DIRECTORY  # before POSIX, the slash said it
        is_old_sparse = kind == b"S"
        kind = _REGULAR if kind in {b"\0", b"7", b"S"} else kind
        if kind not in _KINDS and kind not in {_REGULAR, _HARDLINK}:
            raise InvalidLayer(f"a tar member of unknown type {kind!r}")
        stored = headers.pax_number(pax, b"size", headers.parse_number(header[124:136])) if kind == _REGULAR else 0
        self._left, self._padding = stored, -stored % BLOCK
        self._sparse = self._read_sparse_map(header, pax, is_old=is_old_sparse) if kind == _REGULAR else None
        size = self._sparse.size_bytes if self._sparse is not None else stored
        self._total_bytes += size
        if self._total_bytes > MAX_TOTAL_BYTES:
            raise InvalidLayer(f"the layer's files have more than {MAX_TOTAL_BYTES} bytes")
        type_bits = 0 if kind == _HARDLINK else _KINDS.get(kind, stat.S_IFREG)
        return Entry(
            path=path,
            mode=type_bits | (headers.parse_number(header[100:108]) & 0o7777),
            uid=headers.checked_owner(headers.pax_number(pax, b"uid", headers.parse_number(header[108:116]))),
            gid=headers.checked_owner(headers.pax_number(pax, b"gid", headers.parse_number(header[116:124]))),
            mtime_ns=headers.parse_time(pax.get(b"mtime"), headers.parse_signed(header[136:148])),
            size=size,
            target=_target(header, extensions, kind) if kind in {_HARDLINK, _SYMLINK} else b"",
            device=headers.parse_device(header) if kind in {_CHARACTER, _BLOCK} else (0, 0),
            xattrs=headers.parse_xattrs(pax) if type_bits in _TYPED_XATTRS else (),
            is_hardlink=kind == _HARDLINK,
            is_sparse=self._sparse is not None,
        )

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

    def _path(self, header: bytes, extensions: _Extensions) -> bytes:
        path = extensions.pax.get(b"GNU.sparse.name") or extensions.pax.get(b"path") or extensions.path
        if not path:
            path = headers.parse_text(header[:100])
            prefix = headers.parse_text(header[345:500])
            if prefix and header[257:263] == b"ustar\0":  # GNU's own format keeps times there
                path = prefix + b"/" + path
        if len(path) > MAX_PATH_BYTES or b"\0" in path:
            raise InvalidLayer("a path is too long or has a NUL")
        return path

    def _read_extension(self, header: bytes, kind: bytes, extensions: _Extensions) -> None:
        size = headers.parse_number(header[124:136])
        if size > MAX_EXTENSION_BYTES:
            raise InvalidLayer(f"a tar extension header of {size} bytes")
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


def _target(header: bytes, extensions: _Extensions, kind: bytes) -> bytes:
    target = extensions.pax.get(b"linkpath") or extensions.target or headers.parse_text(header[157:257])
    if not target or b"\0" in target or len(target) >= MAX_PATH_BYTES:
        raise InvalidLayer("a link's target is empty, too long or has a NUL")
    return target.rstrip(b"/") or target if kind == _HARDLINK else target
