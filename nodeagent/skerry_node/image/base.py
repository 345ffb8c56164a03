"""The lowest layer of every sandbox: the mount points that it needs, so that no launch has to make them in its writable layer.

The image lies over it and wins. Docker's `-init` layer does the same from above.
"""

from __future__ import annotations

import os
import stat

from skerry_node.image import erofs, sealing, tree

NAME = "base-1.erofs"
"""The number counts the versions of this layer."""
_DIRECTORIES = (b"dev", b"etc", b"proc", b"sys")
_FILES = (b"hosts", b"hostname", b"resolv.conf")


def ensure(directory_fd: int) -> None:
    """Have the layer in the store's layers directory."""
    try:
        os.stat(NAME, dir_fd=directory_fd)
    except FileNotFoundError:
        _make(directory_fd)


def _make(directory_fd: int) -> None:
    root = tree.Node(mode=stat.S_IFDIR | 0o755)
    root.children = {name: tree.Node(mode=stat.S_IFDIR | 0o755) for name in _DIRECTORIES}
    root.children[b"etc"].children = {name: tree.Node(mode=stat.S_IFREG | 0o644) for name in _FILES}
    temporary = f".{NAME}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o400, dir_fd=directory_fd)
    try:
        erofs.Writer(sealing.FileSink(fd)).finish(root)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, NAME, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
