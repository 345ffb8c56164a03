"""A writable layer's own disk: a filesystem that holds no more than its limit, in bytes and in files, and whose limit changes while it is in use.

It lies in a sparse file many times the limit, and what is above the limit is reserved for nobody (`reserved_clusters`, ext4's file in sysfs):
the kernel refuses such blocks to everyone with ENOSPC, and a new number counts at once. The file's tables are made once for each size and
copied, which takes a millisecond; `discard` gives freed blocks back to the host. How many files it may hold is fixed when it is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
from collections.abc import Iterator

from skerry_node.kernel import syscalls
from skerry_node.model import DISK_BLOCK_BYTES
from skerry_node.rootfs import filesystems

BLOCK_BYTES = DISK_BLOCK_BYTES
IMAGE = ".writable.img"
"""In the directory of the sandbox's sized volumes, whose names never start with a dot: so it is seen and removed with them."""
_TEMPLATES = ".disks"
_MIN_CLASS = 1 << 24
"""16 MiB; then by doubling. The tables of a class are made when the first asks for it, which takes a tenth of a second, and kept."""
_HEADROOM, _MAX_BYTES = 16, 8 << 40
"""How many times its first limit a disk can grow to; and ext4's largest file is 16 TiB."""
_BYTES_PER_FILE = 16_384
"""mke2fs's own ratio (mke2fs.conf)."""
_SLACK_BYTES = 1 << 18
"""What a new start on a full disk needs for the overlay's work directory."""
_SHUTDOWN, _WITHOUT_FLUSH = 0x8004587D, struct.pack("=I", 2)
"""_IOR('X', 125, __u32) and EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h): what is dirty is forgotten, so that unmounting waits for no disk."""

_making = threading.Lock()
_LOG = logging.getLogger("skerry.disks")


class DiskRefused(Exception):
    """The limit that is wanted cannot be had; the message says why and what to do. Lasting."""


def ensure(volumes_dir: str, scratch_dir: str, uid: str, *, limit_bytes: int) -> None:
    """Have the disk of *uid* mounted on `<scratch_dir>/<uid>`, held to *limit_bytes*. Takes some milliseconds; needs root.

    Raises DiskRefused, filesystems.FilesystemFailed, OSError.
    """
    target, image = os.path.join(scratch_dir, uid), os.path.join(volumes_dir, uid, IMAGE)
    if not os.path.ismount(target):
        if not os.path.exists(image):
            if os.path.lexists(os.path.join(target, "upper")):
                raise DiskRefused("its files are on a disk that all share; create it anew to limit them")
            _make(volumes_dir, image, limit_bytes)
            _mount(image, target, is_new=True)
        else:
            _mount(image, target)
    is_full = _free_bytes(target) < _SLACK_BYTES
    write_limit(target, limit_bytes)
    if is_full or _free_bytes(target) < _SLACK_BYTES:  # the next look sees that this is not what is wanted, and puts it right
        write_limit(target, used_bytes(target) + _SLACK_BYTES)


def unlimit(volumes_dir: str, scratch_dir: str, uid: str) -> None:
    """Hold the disk of *uid* to nothing; one without a disk has nothing to be done."""
    image, target = os.path.join(volumes_dir, uid, IMAGE), os.path.join(scratch_dir, uid)
    if os.path.exists(image):
        if not os.path.ismount(target):
            _mount(image, target)
        write_limit(target, None)


def adopt(volumes_dir: str, scratch_dir: str) -> None:
    """Have every disk mounted that there is: whoever starts anew may have other mounts than the one before. One that is damaged is told of."""
    for uid in os.listdir(volumes_dir):
        image, target = os.path.join(volumes_dir, uid, IMAGE), os.path.join(scratch_dir, uid)
        if os.path.exists(image) and not os.path.ismount(target):
            try:
                _mount(image, target)
            except (filesystems.FilesystemFailed, OSError) as error:
                _LOG.warning("disk cannot be mounted uid=%s problem=%s", uid, error)


def remove(volumes_dir: str, scratch_dir: str, uid: str) -> None:
    """Unmount the disk of *uid* and forget what is in it; none is fine. Its file goes first: what is forgotten half way is never mounted again."""
    target = os.path.join(scratch_dir, uid)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(volumes_dir, uid, IMAGE))
    while os.path.ismount(target):
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _WITHOUT_FLUSH)
        finally:
            os.close(fd)
        syscalls.umount(os.fsencode(target))


@contextlib.contextmanager
def opened(scratch_dir: str, uid: str) -> Iterator[list[int]]:
    """A clone of the mount of *uid*'s disk, for the keeper and for the time of a block; empty where its files are on the common one."""
    target = os.path.join(scratch_dir, uid)
    if not os.path.ismount(target):
        yield []
        return
    root = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        clone = syscalls.open_tree(root, b"")
    finally:
        os.close(root)
    try:
        yield [clone]
    finally:
        os.close(clone)


def read_limit(path: str) -> int | None:
    """Bytes that the disk mounted on *path* holds; None where nothing holds it."""
    with open(_reserved(path), encoding="ascii") as file:
        reserved = int(file.read())
    return (os.statvfs(path).f_blocks - reserved) * BLOCK_BYTES if reserved else None


def write_limit(path: str, limit_bytes: int | None) -> None:
    """Hold the disk mounted on *path* to *limit_bytes*, a multiple of BLOCK_BYTES; what is there already stays. Raises DiskRefused, OSError."""
    blocks = os.statvfs(path).f_blocks
    reserved = 0 if limit_bytes is None else blocks - limit_bytes // BLOCK_BYTES
    if reserved < 0:
        raise DiskRefused(f"its disk was made for at most {blocks * BLOCK_BYTES} bytes; create it anew for more")
    with open(_reserved(path), "w", encoding="ascii") as file:
        file.write(str(reserved))


def used_bytes(path: str) -> int:
    """Bytes in use on the disk mounted on *path*."""
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _free_bytes(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _reserved(path: str) -> str:
    device = os.stat(path).st_dev
    name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    return f"/sys/fs/ext4/{name}/reserved_clusters"


def _mount(image: str, target: str, *, is_new: bool = False) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(target, 0o755)
    filesystems.ensure(image, target, size_bytes=0, options=filesystems.OPTIONS + b",discard", is_new=is_new)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(os.path.join(target, "lost+found"))


def _make(volumes_dir: str, image: str, limit_bytes: int) -> None:
    """A copy of the tables for *limit_bytes*, whole or not at all."""
    template = _ensure_template(volumes_dir, max(1 << (limit_bytes - 1).bit_length(), _MIN_CLASS))
    os.makedirs(os.path.dirname(image), mode=0o700, exist_ok=True)
    temporary = image + ".tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    _copy_sparse(template, temporary)
    os.rename(temporary, image)


def _ensure_template(volumes_dir: str, size: int) -> str:
    """The file with the tables of a disk whose first limit is at most *size*, a power of two."""
    directory = os.path.join(volumes_dir, _TEMPLATES)
    path = os.path.join(directory, str(size))
    with _making:
        if not os.path.exists(path):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            total = min(size * _HEADROOM, _MAX_BYTES)
            filesystems.make(path, total, more=["-b", str(BLOCK_BYTES), "-N", str(size // _BYTES_PER_FILE)])
    return path


def _copy_sparse(source: str, target: str) -> None:
    """Copy what *source* holds, and leave its holes (lseek(2), SEEK_DATA)."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        end = os.fstat(reader.fileno()).st_size
        os.ftruncate(writer.fileno(), end)
        place = 0
        while place < end:
            try:
                place = os.lseek(reader.fileno(), place, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole from here on
                return
            stop = os.lseek(reader.fileno(), place, os.SEEK_HOLE)
            while place < stop:
                place += os.copy_file_range(reader.fileno(), writer.fileno(), stop - place, place, place)
