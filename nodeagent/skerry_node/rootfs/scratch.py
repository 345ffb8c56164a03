"""Writable layers live on a filesystem of their own: a sparse file with ext4 without a journal, mounted at `<state_dir>/scratch`.

The host's journal and fragmentation stay off the launch path, and a full one harms nothing else. Trees in it are hostile: they are walked by
directory fd, never by path, and links are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct

from skerry_node.rootfs import filesystems, trees

_IMAGE, _TRASH_PREFIX = "scratch.img", ".trash-"
_FITRIM, _TRIM_RANGE = 0xC0185879, struct.Struct("=QQQ")
"""_IOWR('X', 121, struct fstrim_range) of linux/fs.h: start, length, least extent."""


def ensure_scratch(state_dir: str, size_bytes: int) -> None:
    """Have the filesystem mounted; *size_bytes* 0 takes a plain directory instead. Needs root. Raises filesystems.FilesystemFailed, OSError."""
    target = os.path.join(state_dir, "scratch")
    os.makedirs(target, mode=0o700, exist_ok=True)
    if size_bytes > 0:
        filesystems.ensure(os.path.join(state_dir, _IMAGE), target, size_bytes=size_bytes)
        os.chmod(target, 0o700)


def remove_scratch(state_dir: str) -> None:
    """Unmount and delete it with everything in it."""
    target = os.path.join(state_dir, "scratch")
    filesystems.remove(os.path.join(state_dir, _IMAGE), target)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(target)


def ensure_writable(scratch_dir: str, uid: str, *, owner: int) -> None:
    """Have `<uid>/upper`, owned by host id *owner*, and a fresh `<uid>/work`.

    A `volatile` overlay refuses a work directory that was in use before.
    """
    base = os.path.join(scratch_dir, uid)
    for path in (base, f"{base}/upper"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    os.chown(f"{base}/upper", owner, owner, follow_symlinks=False)
    try:
        os.mkdir(f"{base}/work", 0o755)
    except FileExistsError:
        _discard(base, "work")  # within the layer, which may be a disk of its own
        os.mkdir(f"{base}/work", 0o755)


def hand_over_writable(scratch_fd: int, name: str, uid: str) -> None:
    """Make the writable layer *name*, that an overlay may be mounted on, the one of *uid*; what is left of an older one goes."""
    try:
        os.rename(name, uid, src_dir_fd=scratch_fd, dst_dir_fd=scratch_fd)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        os.rename(uid, f"{_TRASH_PREFIX}{uid}-{os.urandom(4).hex()}", src_dir_fd=scratch_fd, dst_dir_fd=scratch_fd)
        os.rename(name, uid, src_dir_fd=scratch_fd, dst_dir_fd=scratch_fd)


def remove_writable(scratch_dir: str, uid: str, *, entries: int | None = None) -> bool:
    """Remove the writable layer of *uid*; one that is gone is fine. It is out of sight at once.

    At most *entries* are deleted here, None being all of them; False says that `sweep_trash` has the rest to do.
    """
    return _discard(scratch_dir, uid, entries=entries)


def sweep_trash(scratch_dir: str) -> None:
    """Delete what removals left, and give the freed blocks back to the host. May take seconds: for a thread, not for the loop."""
    fd = os.open(scratch_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            if name.startswith(_TRASH_PREFIX):
                trees.remove_tree(name, directory_fd=fd)
        with contextlib.suppress(OSError):  # a plain directory on a filesystem that cannot
            fcntl.ioctl(fd, _FITRIM, _TRIM_RANGE.pack(0, (1 << 64) - 1, 0))
    finally:
        os.close(fd)


def _discard(scratch_dir: str, path: str, *, entries: int | None = None) -> bool:
    """Rename first, so that it is gone at once, then delete what is quickly deleted. On a full disk the rename may need a block: delete in place."""
    fd = os.open(scratch_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        trash = f"{_TRASH_PREFIX}{path.replace('/', '-')}-{os.urandom(4).hex()}"
        try:
            os.rename(path, trash, src_dir_fd=fd, dst_dir_fd=fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return trees.remove_tree(path, directory_fd=fd)
        return trees.remove_tree(trash, directory_fd=fd, entries=entries)
    finally:
        os.close(fd)
