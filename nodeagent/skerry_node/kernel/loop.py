"""Loop devices, for kernels on which EROFS cannot be mounted from a file (before 6.12). See loop(4)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_CONTROL_NUMBER, _LOOP_MAJOR = (10, 237), 7
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_CONFIG = struct.Struct("=II 8x 8x 8x 8x 8x 4x 4x 4x I 64x 64x 32x 16x 64x")
"""struct loop_config: fd, block_size, then struct loop_info64 with lo_flags at byte 52 of it, then 8 reserved u64."""
_TRIES = 16


@contextlib.contextmanager
def attached(fd: int, directory: bytes, *, writable: bool = False) -> Iterator[bytes]:
    """A loop device over *fd*, as a node in the private *directory*; it goes by itself with the last mount of it."""
    control = _node(directory, b"control", _CONTROL_NUMBER)
    control_fd = os.open(control, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control_fd, _LOOP_CTL_GET_FREE)
            path = _node(directory, b"loop%d" % number, (_LOOP_MAJOR, number))
            device = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            flags = _LO_FLAGS_AUTOCLEAR | (0 if writable else _LO_FLAGS_READ_ONLY)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _CONFIG.pack(fd, 0, flags))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else took it in between
                    raise
                continue
            try:
                yield path
            finally:
                os.close(device)
                os.unlink(path)
            return
        raise OSError(errno.EBUSY, "no free loop device")
    finally:
        os.close(control_fd)
        os.unlink(control)


def _node(directory: bytes, name: bytes, number: tuple[int, int]) -> bytes:
    path = os.path.join(directory, name)
    with contextlib.suppress(FileExistsError):
        os.mknod(path, stat.S_IFBLK | 0o600 if number[0] == _LOOP_MAJOR else stat.S_IFCHR | 0o600, os.makedev(*number))
    return path
