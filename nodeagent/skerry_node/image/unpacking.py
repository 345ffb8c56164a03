"""The tar stream of a blob while it is hashed on both sides. Memory is bounded whatever the blob says of itself.

Source: RFC 1952 (gzip: members follow one another), RFC 8878 (zstd frames likewise), OCI image-spec layer.md for media types.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from isal import isal_zlib

from skerry_node.image.errors import DamagedContent, InvalidLayer

MAX_RAW_BYTES = 64 << 30
MAX_RATIO, RATIO_FREE_BYTES = 400, 64 << 20
"""A layer may grow 400 times when it is unpacked, once it is larger than 64 MiB: gzip's own bound is about 1,030."""
_PACKED_BYTES, _RAW_BYTES = 64 << 10, 256 << 10
"""Small enough for a core's own cache: gzip of 64 KiB, unpacked and hashed, takes two thirds of the time that 256 KiB into 1 MiB takes."""
_VIEW_BYTES = 4096
"""A shorter piece is copied: a view of it would cost more, and keep all of its piece in memory."""
_GZIP_WINDOW = 31
_SLICE_BYTES, _MAX_EMPTY_MEMBERS = 16 << 10, 10_000
_ZSTD_WINDOW_BYTES = 128 << 20
"""zstd --long=27, the largest that its own command unpacks unasked."""


class Source(Protocol):
    """Bytes in order; none at the end."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes."""
        ...


class _Packed:
    """The blob as it is, hashed; never more than its descriptor promised."""

    def __init__(self, blob: Source, promised_bytes: int) -> None:
        self._blob = blob
        self._promised_bytes = promised_bytes
        self.bytes_read = 0
        self.hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        piece = self._blob.read(size)
        self.bytes_read += len(piece)
        if self.bytes_read > self._promised_bytes:
            raise DamagedContent(f"the blob is longer than its {self._promised_bytes} bytes")
        self.hash.update(piece)
        return piece


class _Gunzipped:
    """Gzip, a bounded piece at a time. Where members follow one another closely, the input goes in small slices: what is left of one is copied."""

    def __init__(self, packed: _Packed) -> None:
        self._packed = packed
        self._input = self._rest = b""
        self._slice_bytes = _PACKED_BYTES
        self._is_fresh = True
        self._empty_members = 0
        self._has_output = False
        self._inflater = isal_zlib.decompressobj(wbits=_GZIP_WINDOW)

    def read(self, size: int) -> bytes:
        while True:
            if not self._input:
                self._input = self._take()
            if not self._input and self._is_fresh:
                return b""
            is_end = not self._input
            try:
                raw: bytes = self._inflater.decompress(self._input, size)
            except isal_zlib.error as error:  # type: ignore[misc]
                raise InvalidLayer(f"gzip says: {error}") from error
            self._has_output = self._has_output or bool(raw)
            self._is_fresh = bool(self._inflater.eof)
            if self._is_fresh:
                self._next_member(self._inflater.unused_data)
            else:
                self._input = self._inflater.unconsumed_tail
            if raw:
                return raw
            if is_end and not self._is_fresh:
                raise InvalidLayer("the gzip stream is cut short")

    def _take(self) -> bytes:
        if not self._rest:
            self._slice_bytes = _PACKED_BYTES
            self._rest = self._packed.read(_PACKED_BYTES)
        piece, self._rest = self._rest[: self._slice_bytes], self._rest[self._slice_bytes :]
        return piece

    def _next_member(self, left: bytes) -> None:
        self._empty_members += not self._has_output
        if self._empty_members > _MAX_EMPTY_MEMBERS:
            raise InvalidLayer(f"it has more than {_MAX_EMPTY_MEMBERS} empty gzip members")
        if len(left) > _SLICE_BYTES:
            left, self._rest, self._slice_bytes = left[:_SLICE_BYTES], left[_SLICE_BYTES:] + self._rest, _SLICE_BYTES
        self._input = left
        self._has_output = False
        self._inflater = isal_zlib.decompressobj(wbits=_GZIP_WINDOW)


class _Unzstd:
    """zstd, a bounded piece at a time."""

    def __init__(self, packed: _Packed) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._reader = decompressor.stream_reader(packed, read_size=_PACKED_BYTES, read_across_frames=True)  # type: ignore[arg-type]

    def read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            raise InvalidLayer(f"zstd says: {error}") from error


class Unpacked:
    """The tar of a blob, a piece at a time. Once `next_piece` gave nothing, `packed_bytes` and both digests cover everything."""

    def __init__(self, blob: Source, *, media_type: str, size_bytes: int) -> None:
        self._packed = _Packed(blob, size_bytes)
        self._source = _source(self._packed, media_type)
        self._raw_bytes = 0
        self._raw_hash = hashlib.sha256()

    @property
    def packed_bytes(self) -> int:
        """Bytes of the blob that were read."""
        return self._packed.bytes_read

    @property
    def digest(self) -> str:
        """Digest of the blob as far as it was read."""
        return f"sha256:{self._packed.hash.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """Digest of the tar as far as it was read."""
        return f"sha256:{self._raw_hash.hexdigest()}"

    def next_piece(self) -> bytes:
        """Some bytes, none at the end; then the blob has been read whole. Raises InvalidLayer, DamagedContent."""
        raw = self._source.read(_RAW_BYTES)
        self._raw_bytes += len(raw)
        self._raw_hash.update(raw)
        if self._raw_bytes > MAX_RAW_BYTES:
            raise InvalidLayer(f"it has more than {MAX_RAW_BYTES} bytes")
        if self._raw_bytes > RATIO_FREE_BYTES and self._raw_bytes > MAX_RATIO * self._packed.bytes_read:
            raise InvalidLayer(f"it grows beyond {MAX_RATIO} times its size")
        if not raw:
            self.drain_packed()
        return raw

    def drain_packed(self) -> None:
        """Read the rest of the blob without unpacking it: after an error, to know whether it is damaged."""
        while self._packed.read(_PACKED_BYTES):
            pass


class Pieces:
    """What the tar reader reads: the pieces that *next_piece* gives, an empty one being the end."""

    def __init__(self, next_piece: Callable[[], bytes]) -> None:
        self._next_piece = next_piece
        self._buffer = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        """At most *size* bytes, fewer only at the end. Raises what *next_piece* raises."""
        start = self._position
        end = start + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        parts, missing = [self._buffer[start:]], end - len(self._buffer)
        self._buffer, self._position = b"", 0
        while missing and (piece := self._next_piece()):
            self._buffer = piece
            self._position = min(missing, len(piece))
            parts.append(piece[: self._position])
            missing -= self._position
        return b"".join(parts)

    def read_some(self, size: int) -> bytes | memoryview:
        """From 1 to *size* bytes, whatever is there without copying; none at the end."""
        if self._position == len(self._buffer):
            self._buffer, self._position = self._next_piece(), 0
        start = self._position
        self._position = min(start + size, len(self._buffer))
        if start == 0 and self._position == len(self._buffer):
            return self._buffer
        if self._position - start < _VIEW_BYTES:
            return self._buffer[start : self._position]
        return memoryview(self._buffer)[start : self._position]


def _source(packed: _Packed, media_type: str) -> Source:
    if media_type.endswith((".tar", "+tar")):
        return packed
    if media_type.endswith(("+gzip", ".gzip")):
        return _Gunzipped(packed)
    if media_type.endswith("+zstd"):
        return _Unzstd(packed)
    raise InvalidLayer(f"media type {media_type[:80]!r} is unknown; gzip, zstd and plain tar are known")
