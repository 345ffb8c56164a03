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
from skerry_node.rootfs import trees

_IMAGE, _TRASH_PREFIX = "scratch.img", ".trash-"
_LOOP_GET_STATUS64, _LOOP_MAJOR = 0x4C05, 7
_STATUS = struct.Struct("=QQ")
"""struct loop_info64 opens with the device and the inode of the backing file."""
_STATUS_BYTES = 232
_FITRIM, _TRIM_RANGE = 0xC0185879, struct.Struct("=QQQ")
"""_IOWR('X', 121, struct fstrim_range) of linux/fs.h: start, length, least extent."""
_OPTIONS = b"noauto_da_alloc,noinit_itable"
"""No flush at each rename, and no thread that writes zeros into a sparse file."""
_STATE_OFFSET = 1024 + 58
"""s_state of the superblock: 1 is clean, without errors."""
_FSCK_UNCORRECTED = 4


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
    with _device(image) as device:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount(device, target.encode(), b"ext4", flags=flags, data=_OPTIONS)
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
    for path in (base, f"{base}/upper"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    os.chown(f"{base}/upper", owner, owner, follow_symlinks=False)
    try:
        os.mkdir(f"{base}/work", 0o755)
    except FileExistsError:
        _discard(scratch_dir, f"{uid}/work")
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


def _repair(image: str) -> None:
    """Check a filesystem that was not unmounted cleanly: without a journal nothing else makes it whole (ext4(5), s_state)."""
    with open(image, "rb") as file:
        file.seek(_STATE_OFFSET)
        is_clean = file.read(2) == b"\x01\x00"
    if is_clean:
        return
    try:
        done = subprocess.run(["e2fsck", "-fy", image], check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ScratchFailed("e2fsck is missing; install e2fsprogs, or start the agent with --scratch-bytes 0") from error
    if done.returncode >= _FSCK_UNCORRECTED:
        raise ScratchFailed(f"the writable layers in {image} are damaged beyond repair; remove the file to lose them and go on")


@contextlib.contextmanager
def _device(image: str) -> Iterator[bytes]:
    """A loop device on *image*: the one that stands on it already, else a new one that goes with its last mount."""
    directory = os.path.dirname(image)
    number = _find_loop(image)
    if number is not None:
        with _node(directory, number) as path:
            yield path.encode()
        return
    _repair(image)
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        with loop.attached(fd, directory.encode(), writable=True) as device:
            yield device
    finally:
        os.close(fd)


def _find_loop(image: str) -> int | None:
    """The number of the loop device that stands on *image*: two on one file would destroy it.

    Compared by device and inode, because sysfs shows the path as another mount namespace may see it.
    """
    wanted = os.stat(image)
    for name in os.listdir("/sys/block"):
        number = name.removeprefix("loop")
        if number == name or not os.path.exists(f"/sys/block/{name}/loop/backing_file"):
            continue
        with _node(os.path.dirname(image), int(number)) as path, contextlib.suppress(OSError):  # let go meanwhile
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                device, inode = _STATUS.unpack_from(fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_STATUS_BYTES)))
            finally:
                os.close(fd)
            if (device, inode) == (wanted.st_dev, wanted.st_ino):
                return int(number)
    return None


@contextlib.contextmanager
def _node(directory: str, number: int) -> Iterator[str]:
    """A private node of loop device *number*: the agent's /dev may lack it."""
    path = os.path.join(directory, f".loop{number}-{os.urandom(4).hex()}")
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(_LOOP_MAJOR, number))
    try:
        yield path
    finally:
        os.unlink(path)
