"""Filesystems of our own, of a limited size: ext4 without a journal in a sparse file, on a loop device.

They take the place of project quotas, which not every filesystem has, and keep the host's journal off whoever writes into them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import subprocess
from collections.abc import Iterator, Sequence

from skerry_node.kernel import loop, syscalls

_LOOP_GET_STATUS64, _LOOP_MAJOR = 0x4C05, 7
_STATUS = struct.Struct("=QQ")
"""struct loop_info64 opens with the device and the inode of the backing file."""
_STATUS_BYTES = 232
OPTIONS = b"noauto_da_alloc,noinit_itable"
"""No flush at each rename, and no thread that writes zeros into a sparse file."""
_FEATURES = "^has_journal,^resize_inode"
"""Nor blocks set aside for growing: they would be most of what has to be written."""
_STATE_OFFSET = 1024 + 58
"""s_state of the superblock: 1 is clean, without errors."""
_FSCK_UNCORRECTED = 4


class FilesystemFailed(Exception):
    """The filesystem cannot be made or mounted; the message says what to do."""


def ensure(image: str, target: str, *, size_bytes: int, options: bytes = OPTIONS, is_new: bool = False) -> None:
    """Have the filesystem in file *image*, made with *size_bytes* when it is not there, mounted on directory *target*, private, nosuid, nodev.

    *is_new* promises that no loop device stands on it yet, which saves looking at all of them.

    Needs root. Raises FilesystemFailed, OSError.
    """
    if os.path.ismount(target):
        return
    if not os.path.exists(image):
        make(image, size_bytes)
    with _device(image, is_new=is_new) as device:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount(device, target.encode(), b"ext4", flags=flags, data=options)
    syscalls.mount(b"none", target.encode(), None, flags=syscalls.MS_PRIVATE)


def remove(image: str, target: str) -> None:
    """Unmount it and delete the file; what uses it keeps it until it ends. One that is gone is fine."""
    while os.path.ismount(target):
        syscalls.umount(target.encode())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(image)


def make(image: str, size_bytes: int, *, more: Sequence[str] = ()) -> None:
    """The filesystem in a new file *image*, whole or not at all; *more* goes to mkfs.ext4. One at a time. Raises FilesystemFailed, OSError."""
    temporary = image + ".tmp"
    with open(temporary, "wb") as file:
        file.truncate(size_bytes)
    options = ["-q", "-F", "-m", "0", "-O", _FEATURES, "-E", "lazy_itable_init=1,nodiscard"]
    try:
        subprocess.run(["mkfs.ext4", *options, *more, temporary], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FilesystemFailed("mkfs.ext4 is missing; install e2fsprogs") from error
    except subprocess.CalledProcessError as error:
        raise FilesystemFailed(f"mkfs.ext4 failed: {error.stderr.strip()}") from error
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
        raise FilesystemFailed("e2fsck is missing; install e2fsprogs") from error
    if done.returncode >= _FSCK_UNCORRECTED:
        raise FilesystemFailed(f"the files in {image} are damaged beyond repair; remove it to lose them and go on")


@contextlib.contextmanager
def _device(image: str, *, is_new: bool) -> Iterator[bytes]:
    """A loop device on *image*: the one that stands on it already, else a new one that goes with its last mount."""
    directory = os.path.dirname(image)
    number = None if is_new else _find_loop(image)
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
