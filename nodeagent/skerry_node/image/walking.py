"""Walk a tree that a sandbox wrote, and may be writing still: by directory fd only, links never followed, everything bounded.

What is found is described by its open fd where it has one, so that a name that is exchanged under the walker means another entry and never
another place. Parents come before children, names in byte order.
"""

from __future__ import annotations

import errno
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
_EXCHANGED = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EINVAL})
"""Became a link, no directory, a socket, no link between two calls."""


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
    device, left = os.fstat(root_fd).st_dev, max_entries
    levels: list[_Level] = []
    try:
        found: Found | None = look(root_fd, b".", b"", device=device)
        while True:
            if found is not None and stat.S_ISDIR(found.info.st_mode):
                assert found.fd is not None
                levels.append(_Level(fd=found.fd, path=found.path, names=iter(())))
                check_depth(len(levels), found.path)
                names = list_names(found.fd, limit=left)
                left -= len(names)
                levels[-1].names = iter(names)
                yield found
            elif found is not None:
                try:
                    yield found
                finally:
                    close(found)
            name = None
            while levels and name is None:
                name = next(levels[-1].names, None)
                if name is None:
                    os.close(levels.pop().fd)
            if name is None:
                return
            above = levels[-1]
            found = look(above.fd, name, above.path + b"/" + name if above.path else name, device=device)
    finally:
        for level in levels:
            os.close(level.fd)


def check_depth(depth: int, path: bytes) -> None:
    """Hold the number of open directories. Raises InvalidTree."""
    if depth > MAX_DEPTH:
        raise InvalidTree(f"{path[:80]!r} lies deeper than {MAX_DEPTH} directories")


def list_names(fd: int, *, limit: int) -> list[bytes]:
    """Names in the directory at *fd*, in byte order. Raises InvalidTree when there are more than *limit*."""
    names: list[bytes] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if len(names) >= limit:
                raise InvalidTree("the tree has too many entries")
            names.append(os.fsencode(entry.name))
    return sorted(names)


def look(directory_fd: int, name: bytes, path: bytes, *, device: int) -> Found | None:
    """What *name* is now; the caller closes its fd. None when it has gone, became something else between two looks, or is a mount."""
    try:
        info = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            return Found(path=path, info=info, fd=None, target=os.readlink(name, dir_fd=directory_fd))
        if not stat.S_ISDIR(info.st_mode) and not stat.S_ISREG(info.st_mode):
            return Found(path=path, info=info, fd=None)
        fd = os.open(name, _DIRECTORY if stat.S_ISDIR(info.st_mode) else _FILE, dir_fd=directory_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _EXCHANGED:
            return None
        raise
    found = Found(path=path, info=os.fstat(fd), fd=fd)
    if stat.S_IFMT(found.info.st_mode) == stat.S_IFMT(info.st_mode) and found.info.st_dev == device:
        return found
    os.close(fd)
    return None


def close(found: Found) -> None:
    """Close what `look` opened."""
    if found.fd is not None:
        os.close(found.fd)
