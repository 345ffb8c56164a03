"""Deleting trees that a sandbox wrote: by directory fd, never by path, links never followed, deep trees without recursion without end."""

from __future__ import annotations

import contextlib
import errno
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 64
"""Directories held open at once. What lies deeper is moved up to the top and deleted from there."""


class Budget:
    """How many entries may still be deleted in this go; None is no bound."""

    def __init__(self, entries: int | None) -> None:
        self._left = entries

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may be deleted."""
        return self._left is not None and self._left <= 0

    def spend(self) -> bool:
        """Whether one more may be deleted."""
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0


def remove_tree(name: str, *, directory_fd: int, entries: int | None = None) -> bool:
    """Delete *name* below *directory_fd* with everything in it, at most *entries* of them; True when nothing is left. Raises OSError.

    The caller is root and the tree is no longer written to. What is gone already is fine: two may delete at once.
    """
    try:
        top = os.open(name, _DIRECTORY, dir_fd=directory_fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        os.unlink(name, dir_fd=directory_fd)
        return True
    budget = Budget(entries)
    try:
        while not _is_removed(name, directory_fd):  # again for what was moved up from the depths
            if budget.is_spent:
                return False
            _empty(top, top, budget, depth=0)
    finally:
        os.close(top)
    return True


def _empty(fd: int, top: int, budget: Budget, *, depth: int) -> None:
    """Delete everything in *fd*, as far as the budget goes; what lies too deep is moved up to *top*."""
    with os.scandir(fd) as entries:
        for entry in entries:
            if not budget.spend():
                return
            if not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=fd)
            elif not _is_removed(entry.name, fd):
                _empty_directory(entry.name, fd, top, budget, depth=depth + 1)


def _empty_directory(name: str, fd: int, top: int, budget: Budget, *, depth: int) -> None:
    if depth == _MAX_DEPTH:
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
        return
    try:
        child = os.open(name, _DIRECTORY, dir_fd=fd)
    except FileNotFoundError:
        return
    try:
        _empty(child, top, budget, depth=depth)
    finally:
        os.close(child)
    _is_removed(name, fd)


def _is_removed(name: str, fd: int) -> bool:
    """Remove directory *name* when it is empty, which most are."""
    try:
        os.rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        return False
    return True
