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
import stat
import struct
import subprocess
from collections.abc import Iterator

from skerry_node.kernel import loop, syscalls

_IMAGE, _TRASH_PREFIX = "scratch.img", ".trash-"
_LOOP_GET_STATUS64 = 0x4C05
_STATUS = struct.Struct("=QQ")
"""struct loop_info64 opens with the device and the inode of the backing file."""
_MAX_LOOPS = 1 << 12


class ScratchFailed(Exception):
    """The filesystem cannot be made or mounted; the message says what to do."""


def ensure_scratch(state_dir: str, size_bytes: int) -> None:
    """Have the filesystem mounted; *size_bytes* 0 takes a plain directory instead. Needs root. Raises ScratchFailed, OSError."""
    target = os.path.join(state_dir, "scratch")
    os.makedirs(target, mode=0o700, exist_ok=True)
    if size_bytes == 0 or os.path.ismount(target):
        return
    image = os.path.join(state_dir, _IMAGE)
    if not os.path.exists(image):
        _make_filesystem(image, size_bytes)
    with contextlib.ExitStack() as stack:
        device = _find_loop(image) or stack.enter_context(_attach(image, state_dir))
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount(device, target.encode(), b"ext4", flags=flags, data=b"noauto_da_alloc")
    syscalls.mount(b"none", target.encode(), None, flags=syscalls.MS_PRIVATE)
    os.chmod(target, 0o700)


def remove_scratch(state_dir: str) -> None:
    """Unmount and delete it with everything in it."""
    target = os.path.join(state_dir, "scratch")
    while os.path.ismount(target):
        syscalls.umount(target.encode())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, _IMAGE))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(target)


def ensure_writable(scratch_dir: str, uid: str, *, owner: int) -> None:
    """Have `<uid>/upper`, owned by host id *owner*, and a fresh `<uid>/work`.

    A `volatile` overlay refuses a work directory that was in use before.
    """
    base = os.path.join(scratch_dir, uid)
    with contextlib.suppress(FileExistsError):
        os.mkdir(base, 0o755)
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{base}/upper", 0o755)
        os.chown(f"{base}/upper", owner, owner)
    try:
        os.mkdir(f"{base}/work", 0o755)
    except FileExistsError:
        _discard(scratch_dir, f"{uid}/work")
        os.mkdir(f"{base}/work", 0o755)


def remove_writable(scratch_dir: str, uid: str) -> None:
    """Remove the writable layer of *uid*; one that is gone is fine."""
    _discard(scratch_dir, uid)


def sweep_trash(scratch_dir: str) -> None:
    """Delete what an interrupted removal left."""
    for name in os.listdir(scratch_dir):
        if name.startswith(_TRASH_PREFIX):
            _remove_tree(os.path.join(scratch_dir, name))


def _discard(scratch_dir: str, path: str) -> None:
    """Rename first, so that it is gone at once, then delete."""
    trash = os.path.join(scratch_dir, f"{_TRASH_PREFIX}{path.replace('/', '-')}-{os.urandom(4).hex()}")
    try:
        os.rename(os.path.join(scratch_dir, path), trash)
    except FileNotFoundError:
        return
    _remove_tree(trash)


def _remove_tree(path: str) -> None:
    """Delete a hostile tree from its top, one directory fd at a time: deep trees move their children up instead of recursing."""
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while _empty(top):
            pass
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: int) -> bool:
    """Delete what can be deleted in *top*; subdirectories are emptied into it, and True is returned while any is left."""
    again = False
    for name in os.listdir(top):
        status = os.stat(name, dir_fd=top, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=top)
            continue
        try:
            os.rmdir(name, dir_fd=top)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            _raise_children(top, name)
            again = True
    return again


def _raise_children(top: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for child in os.listdir(fd):
            if stat.S_ISDIR(os.stat(child, dir_fd=fd, follow_symlinks=False).st_mode):
                os.rename(child, f".{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)


def _make_filesystem(image: str, size_bytes: int) -> None:
    temporary = image + ".tmp"
    with open(temporary, "wb") as file:
        file.truncate(size_bytes)
    options = ["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]
    try:
        subprocess.run(["mkfs.ext4", *options, temporary], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ScratchFailed("mkfs.ext4 is missing; install e2fsprogs, or start the agent with --scratch-bytes 0") from error
    except subprocess.CalledProcessError as error:
        raise ScratchFailed(f"mkfs.ext4 failed: {error.stderr.strip()}") from error
    os.rename(temporary, image)


def _find_loop(image: str) -> bytes | None:
    """The loop device that already stands on *image*: two on one file would destroy it."""
    status = os.stat(image)
    for number in range(_MAX_LOOPS):
        device = f"/dev/loop{number}"
        try:
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            continue
        try:
            backing = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(232))
        except OSError:
            continue
        finally:
            os.close(fd)
        if _STATUS.unpack_from(backing)[1] == status.st_ino and os.path.exists(f"/sys/block/loop{number}/loop/backing_file"):
            with open(f"/sys/block/loop{number}/loop/backing_file", encoding="utf-8") as file:
                if file.read().strip() == image:
                    return device.encode()
    return None


@contextlib.contextmanager
def _attach(image: str, state_dir: str) -> Iterator[bytes]:
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        with loop.attached(fd, state_dir.encode(), writable=True) as device:
            yield device
    finally:
        os.close(fd)
