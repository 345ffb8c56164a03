"""A streaming reader of tar: ustar, PAX and GNU long names. Every number and length is bounded; Python's tarfile is never used.

Source: pax(1) of POSIX.1-2024; tar(5) of FreeBSD and GNU tar's manual for the rest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from skerry_node.image.errors import InvalidLayer

BLOCK = 512
MAX_ENTRIES = 4_000_000
MAX_PATH_BYTES = 4096
MAX_EXTENSION_BYTES = 1 << 20
MAX_XATTRS_BYTES = 48 << 10
"""An EROFS inode counts its xattr bytes in fours, in 16 bits; 48 KiB stays inside with room."""
_XATTR_PREFIX = b"SCHILY.xattr."
_REGULAR, _HARDLINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {_CHARACTER: stat.S_IFCHR, _BLOCK: stat.S_IFBLK, _DIRECTORY: stat.S_IFDIR, _FIFO: stat.S_IFIFO, _SYMLINK: stat.S_IFLNK}
_SPARSE_KEYS = (b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.numblocks")


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

    def read_content(self) -> Iterator[bytes]:
        """The current member's content, in pieces."""
        while self._left:
            piece = self._stream.read(min(self._left, 1 << 20))
            if not piece:
                raise InvalidLayer("the tar ends inside a file")
            self._left -= len(piece)
            yield piece

    def _next_header(self) -> bytes | None:
        header = self._read_block()
        if header is None or not header.strip(b"\0"):
            return None
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise InvalidLayer(f"the layer has more than {MAX_ENTRIES} entries")
        total = sum(header) - sum(header[148:156]) + 8 * 0x20
        if _number(header[148:156]) != total:
            raise InvalidLayer("a tar header has a wrong checksum")
        return header

    def _entry(self, header: bytes, kind: bytes, extensions: _Extensions) -> Entry:
        pax = extensions.pax
        if kind == b"S" or any(key in pax for key in _SPARSE_KEYS):
            raise InvalidLayer("a sparse file in the tar; make the layer without --sparse")
        kind = _REGULAR if kind in {b"\0", b"7", b""} else kind
        size = _pax_number(pax, b"size", _number(header[124:136]))
        self._left = size if kind == _REGULAR else 0
        self._padding = -size % BLOCK if kind == _REGULAR else 0
        mode = _number(header[100:108]) & 0o7777
        target = pax.get(b"linkpath") or extensions.target or _text(header[157:257])
        if len(target) > MAX_PATH_BYTES or b"\0" in target:
            raise InvalidLayer("a link's target is too long or has a NUL")
        if kind not in _KINDS and kind not in {_REGULAR, _HARDLINK}:
            raise InvalidLayer(f"a tar member of unknown type {kind!r}")
        return Entry(
            path=self._path(header, extensions),
            mode=mode | (0 if kind == _HARDLINK else _KINDS.get(kind, stat.S_IFREG)),
            uid=_owner(_pax_number(pax, b"uid", _number(header[108:116]))),
            gid=_owner(_pax_number(pax, b"gid", _number(header[116:124]))),
            mtime_ns=_time(pax.get(b"mtime"), _number(header[136:148])),
            size=self._left,
            target=target if kind in {_HARDLINK, _SYMLINK} else b"",
            device=(_number(header[329:337]), _number(header[337:345])) if kind in {_CHARACTER, _BLOCK} else (0, 0),
            xattrs=_xattrs(pax),
            is_hardlink=kind == _HARDLINK,
        )

    def _path(self, header: bytes, extensions: _Extensions) -> bytes:
        path = extensions.pax.get(b"path") or extensions.path
        if path is None:
            path = _text(header[:100])
            prefix = _text(header[345:500])
            if prefix and header[257:262] == b"ustar" and header[262:264] != b" \0":
                path = prefix + b"/" + path
        if len(path) > MAX_PATH_BYTES or b"\0" in path:
            raise InvalidLayer("a path is too long or has a NUL")
        return path

    def _read_extension(self, header: bytes, kind: bytes, extensions: _Extensions) -> None:
        size = _number(header[124:136])
        if size > MAX_EXTENSION_BYTES:
            raise InvalidLayer(f"a tar extension header of {size} bytes")
        self._left, self._padding = size, -size % BLOCK
        body = b"".join(self.read_content())
        self._skip_content()
        if kind in b"xX":
            extensions.pax.update(_parse_pax(body))
        elif kind == b"L":
            extensions.path = body.rstrip(b"\0")
        elif kind == b"K":
            extensions.target = body.rstrip(b"\0")

    def _skip_content(self) -> None:
        for _ in self.read_content():
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


def _text(part: bytes) -> bytes:
    return part.split(b"\0", 1)[0]


def _number(part: bytes) -> int:
    """Octal, or base 256 when the first bit is set (GNU)."""
    if part[0] & 0x80:
        value = int.from_bytes(part, "big") & ((1 << (8 * len(part) - 1)) - 1)
        if part[0] & 0x40:
            raise InvalidLayer("a negative number in a tar header")
        return value
    digits = part.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise InvalidLayer("a tar header has a number that is none") from None


def _pax_number(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    if text is None:
        return default
    if not text.isdigit() or len(text) > 19:
        raise InvalidLayer(f"the pax header {key.decode('ascii', 'replace')} is no number")
    return int(text)


def _owner(value: int) -> int:
    if value > 0xFFFFFFFE:
        raise InvalidLayer(f"owner {value} is no 32-bit id")
    return value


def _time(text: bytes | None, default: int) -> int:
    """Seconds with a fraction, to nanoseconds; what lies before 1970 or past 64 bits is held to the nearest."""
    if text is None:
        return min(default, (1 << 33) - 1) * 1_000_000_000
    whole, _, fraction = text.partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(whole) > 18:
        return 0
    return min(int(whole), (1 << 33) - 1) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")


def _parse_pax(body: bytes) -> dict[bytes, bytes]:
    """Records of `length key=value\\n`."""
    found: dict[bytes, bytes] = {}
    offset = 0
    while offset < len(body):
        space = body.find(b" ", offset, offset + 20)
        digits = body[offset:space] if space > 0 else b""
        if not digits.isdigit():
            raise InvalidLayer("a pax header that is none")
        end = offset + int(digits)
        record = body[space + 1 : end]
        if end <= space + 1 or end > len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise InvalidLayer("a pax header that is none")
        key, _, value = record[:-1].partition(b"=")
        found[key] = value
        offset = end
    return found


def _xattrs(pax: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes that may pass: user ones. Those of the kernel's security and of overlay itself are dropped."""
    found = []
    for key, value in pax.items():
        name = key.removeprefix(_XATTR_PREFIX)
        if key.startswith(_XATTR_PREFIX) and name.startswith(b"user.") and not name.startswith(b"user.overlay."):
            found.append((name, value))
    if sum(len(name) + len(value) + 8 for name, value in found) > MAX_XATTRS_BYTES or any(len(n) > 255 for n, _ in found):
        raise InvalidLayer("a file has too many extended attributes")
    return tuple(sorted(found))
