"""Where an image that is brought in lies: the files of an OCI layout in a directory or a tar, found by name.

Source: OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from skerry_node.image import descriptors, tar
from skerry_node.image.errors import DamagedContent, InvalidLayer, InvalidLayout


class Files:
    """The files of a layout; content is proved by digest where there is one."""

    def has_file(self, name: str) -> bool:
        """Whether `open_file` would find it."""
        raise NotImplementedError

    def open_file(self, name: str) -> BinaryIO:
        """A file of the layout, at its start. Raises InvalidLayout."""
        raise NotImplementedError

    def read_file(self, name: str) -> bytes:
        """A small file, whole. Raises InvalidLayout."""
        with self.open_file(name) as file:
            content = file.read(descriptors.MAX_JSON_BYTES + 1)
        if len(content) > descriptors.MAX_JSON_BYTES:
            raise InvalidLayout(f"{name} is larger than {descriptors.MAX_JSON_BYTES} bytes")
        return content

    def read_blob(self, descriptor: Mapping[str, Any]) -> bytes:
        """A small blob, whole and proved. Raises DamagedContent, InvalidLayout."""
        digest = descriptors.digest_of(descriptor)
        content = self.read_file(descriptors.blob_name(digest))
        if len(content) != descriptor.get("size") or f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise DamagedContent(f"blob {digest} is damaged: its content does not match its digest and size")
        return content


class Directory(Files):
    """A layout in a directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def has_file(self, name: str) -> bool:
        """Whether there is a regular file of that name."""
        return os.path.isfile(os.path.join(self._path, name))

    def open_file(self, name: str) -> BinaryIO:
        """Open it; a pipe or a device in its place is refused."""
        try:
            fd = os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InvalidLayout(f"{self._path} has no {name}; give an OCI layout (skopeo copy ... oci:DIR)") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidLayout(f"{name} is no regular file")
        return os.fdopen(fd, "rb")


class Tar(Files):
    """A layout in a tar: members are found once, then read in place. *links* are its symbolic links, by name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[str, tuple[int, int]] = {}
        self.links: dict[str, str] = {}
        try:
            for entry in tar.Reader(file):
                name = entry.path.decode("utf-8", "replace").removeprefix("./")
                if stat.S_ISLNK(entry.mode):
                    self.links[name] = entry.target.decode("utf-8", "replace")
                elif not entry.is_sparse:
                    self._members[name] = (file.tell(), entry.size)
        except InvalidLayer as error:
            raise InvalidLayout(f"not a tar of an image: {error}") from error

    def has_file(self, name: str) -> bool:
        """Whether there is a member of that name."""
        return name in self._members

    def open_file(self, name: str) -> BinaryIO:
        """Open the member."""
        if name not in self._members:
            raise InvalidLayout(f"the tar has no {name}; give one that `skopeo copy ... oci-archive:FILE` or `docker save` wrote")
        offset, size = self._members[name]
        return io.BufferedReader(_Slice(self._file.fileno(), offset, size), 1 << 20)


class _Slice(io.RawIOBase):
    """Part of a file, by its own offset."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd, self._offset, self._left = fd, offset, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = os.pread(self._fd, min(len(buffer), self._left), self._offset)
        buffer[: len(piece)] = piece
        self._offset += len(piece)
        self._left -= len(piece)
        return len(piece)


@contextlib.contextmanager
def opened(source: str) -> Iterator[Directory | Tar]:
    """The files at *source*, a directory or a tar on this machine. Raises InvalidLayout."""
    if os.path.isdir(source):
        yield Directory(source)
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError as error:
        raise InvalidLayout(f"no file or directory {source}") from error
    with file:
        yield Tar(file)
