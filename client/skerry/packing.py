"""A build context as a tar, piece by piece: by directory fd, links never followed, what `.dockerignore` names left out.

The directory may belong to somebody else than who builds: a name that is exchanged under the walk never leads out of it.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator

from skerry.errors import SkerryError
from skerry_api import ignoring

MAX_ENTRIES, MAX_DEPTH = 400_000, 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK, _PIECE_BYTES = 512, 1 << 20


def pack(directory: str, rules: ignoring.Rules) -> Iterator[bytes]:
    """The tar of *directory*, names in byte order, owners root. Raises SkerryError, OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _Packer(rules).pack_root(fd)
    finally:
        os.close(fd)


class _Packer:
    def __init__(self, rules: ignoring.Rules) -> None:
        self._rules = rules
        self._entries = 0
        self._waiting: list[bytes] = []

    def pack_root(self, fd: int) -> Iterator[bytes]:
        """Everything, and the end of the archive."""
        yield _header(".", os.fstat(fd), kind=tarfile.DIRTYPE)
        yield from self._pack(fd, "", depth=0)
        yield bytes(2 * _BLOCK)

    def _pack(self, fd: int, above: str, *, depth: int) -> Iterator[bytes]:
        if depth > MAX_DEPTH:
            raise SkerryError(f"{above} in the build context lies deeper than {MAX_DEPTH} directories")
        for name in sorted(os.listdir(fd), key=os.fsencode):
            path = f"{above}/{name}" if above else name
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:  # gone meanwhile
                continue
            is_ignored = self._rules.is_ignored(path)
            if stat.S_ISDIR(info.st_mode):
                if not is_ignored or self._rules.has_exceptions:
                    yield from self._pack_directory(fd, name, path, is_ignored=is_ignored, depth=depth)
            elif not is_ignored:
                yield from self._pack_other(fd, name, path, info)

    def _pack_directory(self, fd: int, name: str, path: str, *, is_ignored: bool, depth: int) -> Iterator[bytes]:
        """A directory that is ignored itself appears only when something below it does not."""
        inner = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            head = self._count(_header(path, os.fstat(inner), kind=tarfile.DIRTYPE))
            self._waiting.append(head)
            if not is_ignored:
                yield from self._release()
            yield from self._pack(inner, path, depth=depth + 1)
            if self._waiting:
                self._waiting.pop()
        finally:
            os.close(inner)

    def _pack_other(self, fd: int, name: str, path: str, info: os.stat_result) -> Iterator[bytes]:
        if stat.S_ISLNK(info.st_mode):
            yield from self._release()
            yield self._count(_header(path, info, kind=tarfile.SYMTYPE, target=os.readlink(name, dir_fd=fd)))
        elif stat.S_ISREG(info.st_mode):
            yield from self._release()
            yield from self._pack_file(fd, name, path)
        # sockets, pipes and devices are no part of a context

    def _pack_file(self, fd: int, name: str, path: str) -> Iterator[bytes]:
        try:
            file = os.open(name, _FILE, dir_fd=fd)
        except PermissionError as error:
            raise SkerryError(
                f"cannot read {path} of the build context: {error.strerror}", hint="name it in .dockerignore, or change its mode"
            ) from error
        try:
            info = os.fstat(file)
            if not stat.S_ISREG(info.st_mode):  # exchanged meanwhile
                return
            yield self._count(_header(path, info, kind=tarfile.REGTYPE, size=info.st_size))
            left = info.st_size
            while left:
                piece = os.read(file, min(left, _PIECE_BYTES)) or bytes(min(left, _PIECE_BYTES))  # cut meanwhile: what is missing is zeros
                left -= len(piece)
                yield piece
            yield bytes(-info.st_size % _BLOCK)
        finally:
            os.close(file)

    def _release(self) -> Iterator[bytes]:
        """The directories on the way, whose own names come first."""
        yield from self._waiting
        self._waiting.clear()

    def _count(self, head: bytes) -> bytes:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise SkerryError(f"the build context has more than {MAX_ENTRIES} files", hint="leave some out by .dockerignore")
        return head


def _header(path: str, info: os.stat_result, *, kind: bytes, size: int = 0, target: str = "") -> bytes:
    head = tarfile.TarInfo(path)
    head.type, head.size, head.linkname = kind, size, target
    head.mode = stat.S_IMODE(info.st_mode)
    seconds, nanoseconds = divmod(info.st_mtime_ns, 1_000_000_000)
    head.mtime = max(seconds, 0)
    if nanoseconds and seconds >= 0:
        head.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    return head.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
