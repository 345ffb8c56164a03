"""What ADD unpacks: whether a file is a tar, packed or not, told by its content, and the tree in it. Memory and disk are bounded.

Source: RFC 1952, RFC 8878, the bzip2 and xz formats by Python's own modules.
"""

from __future__ import annotations

import bz2
import io
import lzma
import stat
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import zstandard
from isal import igzip

from skerry_node.build import archives, trees
from skerry_node.build.errors import InvalidContext
from skerry_node.image import headers, tar
from skerry_node.image.errors import InvalidLayer

MAX_RATIO, RATIO_FREE_BYTES = 400, 64 << 20
"""An archive may grow 400 times when it is unpacked, once it is larger than 64 MiB, as a layer may."""
_PIECE_BYTES = 1 << 20
_ZSTD_WINDOW_BYTES = 128 << 20
_LZMA_BYTES = 128 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_UNREADABLE = (EOFError, OSError, zstandard.ZstdError, lzma.LZMAError, igzip.BadGzipFile)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def find_archive(node: trees.Node, *, directory: str, what: str) -> archives.Archive | None:
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
        _spool(_unpack(kind, node), file, what=what, limit_bytes=min(archives.MAX_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * node.size)))
        return archives.Archive(file, what=what)
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
