"""Blobs by digest: `sha256/HEX`, byte for byte what a registry holds. A blob is whole and proved, or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from skerry_node.image.errors import BlobNotFound, DamagedContent

_HEX = re.compile(r"[a-f0-9]{64}")


class Blobs:
    """The blobs below *root*. Any thread may read and add; the same blob may be added by several at once."""

    def __init__(self, root: str) -> None:
        self._directory = os.path.join(root, "sha256")
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        for name in os.listdir(self._directory):
            if _HEX.fullmatch(name) is None:  # what a crash left
                os.unlink(os.path.join(self._directory, name))

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""
        return self.size(digest) is not None

    def size(self, digest: str) -> int | None:
        """Its size in bytes, None when it is not here."""
        try:
            return os.stat(self._path(digest)).st_size
        except FileNotFoundError:
            return None

    def open(self, digest: str) -> BinaryIO:
        """The blob, at its start. Raises BlobNotFound."""
        try:
            return open(self._path(digest), "rb")
        except FileNotFoundError as error:
            raise BlobNotFound(f"blob {digest} is not in the store") from error

    def read(self, digest: str) -> bytes:
        """A small blob, whole and proved again. Raises BlobNotFound, DamagedContent."""
        with self.open(digest) as file:
            content = file.read()
        if digest_of(content) != digest:
            raise DamagedContent(f"blob {digest} in the store is damaged: its content does not match its digest")
        return content

    def add(self, digest: str, size_bytes: int) -> BlobWriter:
        """A writer for the blob: a context manager; nothing is visible before its `commit`."""
        return BlobWriter(self._directory, digest, size_bytes)

    def put(self, content: bytes) -> str:
        """Add a small blob that is in memory; returns its digest."""
        digest = digest_of(content)
        if self.size(digest) != len(content):
            with self.add(digest, len(content)) as writer:
                writer.write(content)
                writer.commit()
        return digest

    def remove(self, digest: str) -> None:
        """Delete it; one that is not here is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(digest))

    def list(self) -> Iterator[str]:
        """Digests of all that are here."""
        for name in os.listdir(self._directory):
            if _HEX.fullmatch(name) is not None:
                yield f"sha256:{name}"

    def _path(self, digest: str) -> str:
        return os.path.join(self._directory, _hex_of(digest))


class BlobWriter:
    """One blob on its way in, under a temporary name. Leaving the context without `commit` removes it."""

    def __init__(self, directory: str, digest: str, size_bytes: int) -> None:
        self._directory, self._digest, self._promised_bytes = directory, digest, size_bytes
        self._name = _hex_of(digest)
        self._temporary = f".{self._name}.{os.getpid()}.{os.urandom(4).hex()}"
        self._hash = hashlib.sha256()
        self._is_done = False
        self.size_bytes = 0
        self._file = open(os.path.join(directory, self._temporary), "xb", opener=_private)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def write(self, piece: bytes | memoryview) -> None:
        """Append *piece*. Raises DamagedContent once there is more than was promised, OSError."""
        self.size_bytes += len(piece)
        if self.size_bytes > self._promised_bytes:
            raise DamagedContent(f"blob {self._digest} is damaged: it is longer than its {self._promised_bytes} bytes")
        self._hash.update(piece)
        self._file.write(piece)

    def commit(self) -> None:
        """Prove, sync, make visible; blocks for the disk. Raises DamagedContent, OSError."""
        if self.size_bytes != self._promised_bytes or f"sha256:{self._hash.hexdigest()}" != self._digest:
            raise DamagedContent(f"blob {self._digest} is damaged: its content does not match its digest and size")
        self._file.flush()
        os.fsync(self._file.fileno())
        os.rename(os.path.join(self._directory, self._temporary), os.path.join(self._directory, self._name))
        self._is_done = True
        sync_directory(self._directory)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if not self._is_done:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, self._temporary))


def digest_of(content: bytes) -> str:
    """Its sha256 digest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def sync_directory(path: str) -> None:
    """Make renames in the directory outlast a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o400)


def _hex_of(digest: str) -> str:
    """The digest as a file name. Raises BlobNotFound for anything else: it never becomes a path."""
    name = digest.removeprefix("sha256:")
    if _HEX.fullmatch(name) is None:
        raise BlobNotFound(f"{digest[:80]!r} is no sha256 digest")
    return name
