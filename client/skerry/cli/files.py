"""Bytes of the agent into a file, to stdout, or into a directory: whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from skerry.errors import SkerryError

_LAYOUT_NAME = re.compile(r"oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}")
"""The files of an OCI layout. What the agent sends has no others, and no other would be written."""


def write(pieces: Iterable[bytes], target: str | None) -> int:
    """Write *pieces* to the file *target*, or to stdout for `-`; returns their bytes. A file appears when it is whole."""
    if target is None or target == "-":
        if sys.stdout.isatty():
            raise SkerryError("an archive is nothing for a terminal", hint="give a file: -o FILE, or send it on: | tar -t")
        return _pour(pieces, sys.stdout.buffer.fileno())
    temporary = f"{target}.{os.getpid()}.part"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SkerryError(f"{target}: {error.strerror}") from error
    try:
        total = _pour(pieces, fd)
        os.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return total


def write_layout(pieces: Iterable[bytes], directory: str) -> None:
    """Unpack an OCI layout into *directory*, which must not be there yet."""
    import tarfile  # noqa: PLC0415 - only this form needs it

    if os.path.lexists(directory):
        raise SkerryError(f"{directory} is there already; give a new directory")
    temporary = f"{directory}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.join(temporary, "blobs", "sha256"))
        with tarfile.open(fileobj=io.BufferedReader(_Stream(iter(pieces))), mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() and _LAYOUT_NAME.fullmatch(member.name) else None
                if content is not None:
                    with open(os.path.join(temporary, member.name), "xb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
        os.rename(temporary, directory)
    except OSError as error:
        raise SkerryError(f"{directory}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Stream(io.RawIOBase):
    """Pieces as a file that is read in order."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces, self._piece = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        part = self._piece[: len(buffer)]
        buffer[: len(part)] = part
        self._piece = self._piece[len(part) :]
        return len(part)


def _pour(pieces: Iterable[bytes], fd: int) -> int:
    total = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view) :]
        total += len(piece)
    return total
