"""From a blob to an EROFS file in one pass: hashed, unpacked, hashed again, turned into EROFS, sealed; proved. Runs in the confined worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skerry_node.image import erofs, sealing, tar, tree
from skerry_node.image.ahead import Ahead
from skerry_node.image.errors import DamagedContent, InvalidLayer
from skerry_node.image.unpacking import Pieces, Source, Unpacked


@dataclass(frozen=True, slots=True)
class Promise:
    """What the manifest and the config say of a layer."""

    digest: str
    size_bytes: int
    diff_id: str
    media_type: str


def convert(blob: Source, promise: Promise, fd: int, *, start_writeback: Callable[[int, int, int], None] | None = None) -> sealing.Sealed:
    """Write the image of *blob* into the empty file at *fd*, once all is proved complete.

    Two threads of its own: one reads, unpacks and hashes, one writes and seals. Damage is the likelier cause of nonsense, and is what is reported.
    Raises DamagedContent, InvalidLayer, both naming the digest, OSError, MemoryError.
    """
    try:
        unpacked = Unpacked(blob, media_type=promise.media_type, size_bytes=promise.size_bytes)
    except InvalidLayer as error:
        raise InvalidLayer(f"layer {promise.digest}: {error}") from error
    sink = sealing.ThreadSink(sealing.FileSink(fd, start_writeback=start_writeback))
    ahead = Ahead(unpacked)
    try:
        index, writer = tree.Index(), erofs.Writer(sink)
        _fill(index, writer, Pieces(ahead.next_piece))
        ahead.drain()  # what follows the end mark belongs to the diff id
        _prove(unpacked, promise)
        return writer.finish(index.root)
    except InvalidLayer as error:
        ahead.close()
        _prove_blob(unpacked, promise, error)
        raise InvalidLayer(f"layer {promise.digest}: {error}") from error
    except DamagedContent as error:
        raise DamagedContent(f"layer {promise.digest} is damaged: {error}") from error
    finally:
        ahead.close()
        sink.close()


def _fill(index: tree.Index, writer: erofs.Writer, pieces: Pieces) -> None:
    reader = tar.Reader(pieces)
    for entry in reader:
        node = index.add(entry)
        if node is not None:
            node.block = writer.append(reader.read_content())


def _prove(unpacked: Unpacked, promise: Promise) -> None:
    if unpacked.packed_bytes != promise.size_bytes or unpacked.digest != promise.digest:
        raise DamagedContent("its content does not match its digest and size")
    if unpacked.diff_id != promise.diff_id:
        raise DamagedContent(f"unpacked it is not the {promise.diff_id} that the image config promises")


def _prove_blob(unpacked: Unpacked, promise: Promise, cause: InvalidLayer) -> None:
    try:
        unpacked.drain_packed()
    except DamagedContent as error:
        raise DamagedContent(f"layer {promise.digest} is damaged: {error}") from cause
    if unpacked.packed_bytes != promise.size_bytes or unpacked.digest != promise.digest:
        raise DamagedContent(f"layer {promise.digest} is damaged: its content does not match its digest") from cause
