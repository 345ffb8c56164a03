"""From a blob to a sealed layer in one pass: hashed, unpacked, hashed again, turned into EROFS; proved, synced, renamed.

Until the rename nothing is visible. A crash leaves a temporary file, which the store sweeps when it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import BinaryIO

from skerry_node.image import erofs, tar, tree
from skerry_node.image.errors import DamagedContent, InvalidLayer
from skerry_node.image.unpacking import Unpacked


@dataclass(frozen=True, slots=True)
class Promise:
    """What the manifest and the config say of a layer."""

    digest: str
    size_bytes: int
    diff_id: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file of *size_bytes* whose sha256 is *seal*."""

    size_bytes: int
    seal: str


def convert(blob: BinaryIO, promise: Promise, *, directory_fd: int, name: str) -> Sealed:
    """Make the sealed layer *name* in *directory_fd* from *blob*.

    Raises DamagedContent, InvalidLayer, both naming the digest, and OSError; nothing is left behind then.
    """
    temporary = f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o400, dir_fd=directory_fd)
    try:
        _write(blob, promise, fd)
        sealed = seal(fd)
        os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory_fd)
        raise
    finally:
        os.close(fd)
    os.fsync(directory_fd)
    return sealed


def seal(fd: int) -> Sealed:
    """Size and sha256 of the file at *fd*, as it is now. Blocks for as long as reading takes."""
    position, total = 0, hashlib.sha256()
    while piece := os.pread(fd, 1 << 20, position):
        total.update(piece)
        position += len(piece)
    return Sealed(size_bytes=position, seal=f"sha256:{total.hexdigest()}")


def _write(blob: BinaryIO, promise: Promise, fd: int) -> None:
    """Write the image of the tar, once all is proved. Damage is the likelier cause of nonsense, and is what is reported."""
    try:
        unpacked = Unpacked(blob, media_type=promise.media_type, size_bytes=promise.size_bytes)
    except InvalidLayer as error:
        raise InvalidLayer(f"layer {promise.digest}: {error}") from error
    index, writer = tree.Index(), erofs.Writer(fd)
    try:
        _fill(index, writer, unpacked)
        unpacked.drain()
        _prove(unpacked, promise)
    except InvalidLayer as error:
        _prove_blob(unpacked, promise, error)
        raise InvalidLayer(f"layer {promise.digest}: {error}") from error
    except DamagedContent as error:
        raise DamagedContent(f"layer {promise.digest} is damaged: {error}") from error
    writer.finish(index.root)


def _fill(index: tree.Index, writer: erofs.Writer, unpacked: Unpacked) -> None:
    reader = tar.Reader(unpacked)
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
