"""Walk a tree that a sandbox wrote, and may be writing still: by directory fd only, links never followed, everything bounded.

What is found is described by its open fd where it has one, so that a name that is exchanged under the walker means another entry and never
another place. Parents come before children, names in byte order.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from skerry_node.image import tar
from skerry_node.image.errors import InvalidTree

MAX_DEPTH = 256
"""Directories held open at once. The agent may open 1,024 files by default."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
"""Non-blocking, for a pipe that takes the place of a file in between."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry: *path* is relative to the root, `b""` the root itself. *fd* is open for regular files and directories, until the next one."""

    path: bytes
    info: os.stat_result
    fd: int | None
    target: bytes = b""


@dataclass(slots=True)
class _Level:
    fd: int
    path: bytes
    names: Iterator[bytes]


def walk(root_fd: int, *, max_entries: int = tar.MAX_ENTRIES) -> Generator[Found, None, None]:
    """Give the tree at *root_fd*, the root first; *root_fd* stays the caller's. Mounts below it are passed over.

    Raises InvalidTree for what is too large or too deep, OSError. Close the generator (contextlib.closing): it holds directories open.
    """
    walker = _Walk(root_fd, max_entries=max_entries)
    try:
        yield from walker.run()
    finally:
        walker.close()


class _Walk:
    """The directories that are open between the root and where the walk is."""

    def __init__(self, root_fd: int, *, max_entries: int) -> None:
        self._root_fd = root_fd
        self._device = os.fstat(root_fd).st_dev
        self._entries_left = max_entries
        self._levels: list[_Level] = []

    def close(self) -> None:
        """Close what is open."""
        while self._levels:
            os.close(self._levels.pop().fd)

    def run(self) -> Iterator[Found]:
        """Give every entry."""
        yield from self._enter(os.open(b".", _DIRECTORY, dir_fd=self._root_fd), b"")
        while self._levels:
            level = self._levels[-1]
            name = next(level.names, None)
            if name is None:
                os.close(self._levels.pop().fd)
            else:
                path = level.path + b"/" + name if level.path else name
                yield from self._look(level.fd, name, path)

    def _enter(self, fd: int, path: bytes) -> Iterator[Found]:
        """Give a directory, and have its children come next; *fd* becomes ours."""
        if len(self._levels) >= MAX_DEPTH:
            os.close(fd)
            raise InvalidTree(f"{path[:80]!r} lies deeper than {MAX_DEPTH} directories")
        level = _Level(fd=fd, path=path, names=iter(()))
        self._levels.append(level)
        info = os.fstat(fd)
        if info.st_dev == self._device:
            level.names = iter(self._list(fd))
            yield Found(path=path, info=info, fd=fd)

    def _list(self, fd: int) -> list[bytes]:
        names = []
        with os.scandir(fd) as entries:
            for entry in entries:
                self._entries_left -= 1
                if self._entries_left < 0:
                    raise InvalidTree("the tree has too many entries")
                names.append(os.fsencode(entry.name))
        return sorted(names)

    def _look(self, directory_fd: int, name: bytes, path: bytes) -> Iterator[Found]:
        """Give what *name* is now; nothing, when it has gone or became something else between two looks."""
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                with contextlib.suppress(NotADirectoryError):
                    yield from self._enter(os.open(name, _DIRECTORY, dir_fd=directory_fd), path)
            elif stat.S_ISREG(info.st_mode):
                yield from self._open(directory_fd, name, path)
            elif stat.S_ISLNK(info.st_mode):
                with contextlib.suppress(OSError):  # EINVAL: no link any more
                    yield Found(path=path, info=info, fd=None, target=os.readlink(name, dir_fd=directory_fd))
            else:
                yield Found(path=path, info=info, fd=None)

    def _open(self, directory_fd: int, name: bytes, path: bytes) -> Iterator[Found]:
        try:
            fd = os.open(name, _FILE, dir_fd=directory_fd)
        except OSError:  # ELOOP, ENXIO: exchanged for a link, a socket
            if stat.S_ISREG(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
                raise
            return
        try:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode) and info.st_dev == self._device:
                yield Found(path=path, info=info, fd=fd)
        finally:
            os.close(fd)
