"""Paths below the root of a tree that somebody else controls: by openat2 from a directory fd, never out of it, never through a magic link."""

from __future__ import annotations

import contextlib
import os

from skerry_node.kernel import syscalls

IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def open_path(root_fd: int, path: bytes, *, flags: int = os.O_PATH) -> int:
    """Open *path*, with links resolved inside the root. Raises OSError."""
    return syscalls.openat2(root_fd, path or b".", flags=flags, resolve=IN_ROOT)


def ensure_directory(root_fd: int, path: bytes, *, owner: int | None = None) -> None:
    """Make the directories of relative *path* that are missing; what exists is left as it is. New ones belong to *owner*, if given."""
    done = b""
    for part in path.split(b"/"):
        if part in {b"", b"."}:
            continue
        parent, done = done, done + b"/" + part if done else part
        try:
            os.close(open_path(root_fd, done))
        except FileNotFoundError:
            fd = open_path(root_fd, parent, flags=os.O_PATH | os.O_DIRECTORY)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=fd)
                    if owner is not None:
                        os.chown(part, owner, owner, dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(fd)
