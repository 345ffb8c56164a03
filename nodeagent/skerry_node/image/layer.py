"""From a blob to a sealed layer in one pass: hashed, decompressed, hashed again, turned into EROFS; proved, synced, renamed.

Until the rename nothing is visible. A crash leaves a temporary file, which the store sweeps when it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

import zstandard
from isal import isal_zlib

from skerry_node.image import erofs, tar, tree
from skerry_node.image.errors import DamagedContent, InvalidLayer

MAX_RAW_BYTES = 64 << 30
MAX_RATIO, RATIO_FREE_BYTES = 400, 64 << 20
"""A layer may grow 400 times when it is unpacked, once it is larger than 64 MiB: gzip's own bound is about 1,030."""
_READ_BYTES = 1 << 20
_GZIP_WINDOW = 31


class _Inflater(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


class _Unpacked:
    """The tar stream of a blob, with both hashes kept."""

    def __init__(self, blob: BinaryIO, media_type: str) -> None:
        self._blob = blob
        self._new_inflater = _inflaters(media_type)
        self._inflater = self._new_inflater() if self._new_inflater else None
        self._buffer = b""
        self._position = 0
        self.packed_bytes = 0
        self.raw_bytes = 0
        self.blob_hash = hashlib.sha256()
        self.raw_hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """At most *size* bytes, fewer only at the end."""
        if len(self._buffer) - self._position >= size:
            piece = self._buffer[self._position : self._position + size]
            self._position += size
            return piece
        parts = [self._buffer[self._position :]]
        have = len(parts[0])
        self._buffer, self._position = b"", 0
        while have < size and self._fill():
            take = min(size - have, len(self._buffer))
            parts.append(self._buffer[:take])
            self._position = take
            have += take
            if have == size:
                break
            self._buffer, self._position = b"", 0
        return b"".join(parts)

    def drain(self) -> None:
        """Read the rest: the hashes cover the whole blob."""
        while self._fill():
            self._buffer = b""

    def _fill(self) -> bool:
        while True:
            packed = self._blob.read(_READ_BYTES)
            if not packed:
                return False
            self.packed_bytes += len(packed)
            self.blob_hash.update(packed)
            raw = self._inflate(packed)
            if not raw:
                continue
            self.raw_bytes += len(raw)
            if self.raw_bytes > MAX_RAW_BYTES or (
                self.raw_bytes > RATIO_FREE_BYTES and self.raw_bytes > MAX_RATIO * self.packed_bytes
            ):
                raise InvalidLayer(f"the layer grows beyond {MAX_RATIO} times its size, or {MAX_RAW_BYTES} bytes")
            self.raw_hash.update(raw)
            self._buffer, self._position = raw, 0
            return True

    def _inflate(self, packed: bytes) -> bytes:
        if self._inflater is None or self._new_inflater is None:
            return packed
        parts = []
        try:
            while packed:
                parts.append(self._inflater.decompress(packed))
                packed = b""
                if getattr(self._inflater, "eof", False):  # gzip members follow one another
                    packed = getattr(self._inflater, "unused_data", b"")
                    self._inflater = self._new_inflater()
        except (zlib.error, isal_zlib.error, zstandard.ZstdError) as error:
            raise InvalidLayer(f"the layer cannot be decompressed: {error}") from error
        return b"".join(parts)


def convert(
    blob: BinaryIO, *, digest: str, size: int, diff_id: str, media_type: str, directory_fd: int, name: str
) -> int:
    """Make the sealed layer *name* in *directory_fd* from *blob*; returns its size in bytes. Raises DamagedContent, InvalidLayer."""
    temporary = f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o400, dir_fd=directory_fd)
    try:
        unpacked = _Unpacked(blob, media_type)
        length = _write(unpacked, fd, digest)
        _prove(unpacked, digest=digest, size=size, diff_id=diff_id)
        os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory_fd)
        raise
    finally:
        os.close(fd)
    os.fsync(directory_fd)
    return length


def _write(unpacked: _Unpacked, fd: int, digest: str) -> int:
    """The image of the tar. When the tar makes no sense, damage is the likelier cause, and is what is reported."""
    index, writer = tree.Index(), erofs.Writer(fd)
    reader = tar.Reader(unpacked)
    try:
        for entry in reader:
            node = index.add(entry)
            if node is not None:
                node.block = writer.append(reader.read_content())
        unpacked.drain()
    except InvalidLayer as error:
        with contextlib.suppress(InvalidLayer):
            unpacked.drain()
        if unpacked.blob_hash.hexdigest() != digest.removeprefix("sha256:"):
            raise DamagedContent(f"layer {digest} is damaged: its content does not match its digest") from error
        raise InvalidLayer(f"layer {digest}: {error}") from error
    return writer.finish(index.root)


def _prove(unpacked: _Unpacked, *, digest: str, size: int, diff_id: str) -> None:
    if unpacked.packed_bytes != size or unpacked.blob_hash.hexdigest() != digest.removeprefix("sha256:"):
        raise DamagedContent(f"layer {digest} is damaged: its content does not match its digest and size")
    if unpacked.raw_hash.hexdigest() != diff_id.removeprefix("sha256:"):
        raise DamagedContent(f"layer {digest}: its unpacked content is not the {diff_id} that the image config promises")


def _inflaters(media_type: str) -> Callable[[], _Inflater] | None:
    if media_type.endswith((".tar", "+tar")):
        return None
    if media_type.endswith(("+gzip", ".gzip")):
        return lambda: isal_zlib.decompressobj(wbits=_GZIP_WINDOW)  # type: ignore[no-any-return]
    if media_type.endswith("+zstd"):
        return lambda: zstandard.ZstdDecompressor(max_window_size=128 << 20).decompressobj()
    raise InvalidLayer(f"a layer of media type {media_type[:80]!r}; gzip, zstd and plain tar are known")
