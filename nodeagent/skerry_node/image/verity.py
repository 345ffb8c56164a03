"""fs-verity: the kernel itself refuses a page of a sealed layer that is not what was sealed, where the filesystem can do that.

Source: Documentation/filesystems/fsverity.rst. ext4 (feature verity), f2fs and btrfs have it, when the kernel was built with CONFIG_FS_VERITY.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_FS_IOC_ENABLE_VERITY = 0x40806685
"""_IOW('f', 133, struct fsverity_enable_arg): 128 bytes."""
_ARGUMENT = struct.pack("=IIIIQIIQ11Q", 1, 1, 4096, 0, 0, 0, 0, 0, *([0] * 11))
"""Version 1, sha256, blocks of 4,096 bytes, no salt, no signature."""
_CANNOT = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL}
"""The filesystem has no such feature, the kernel has no such call, or the block size does not fit."""


def enable(name: str, *, directory_fd: int) -> str | None:
    """Seal the file for good; None when it is done, else why it cannot be here. Nobody may have it open for writing. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        fcntl.ioctl(fd, _FS_IOC_ENABLE_VERITY, _ARGUMENT)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return None
        if error.errno in _CANNOT:
            return f"this filesystem has no fs-verity ({os.strerror(error.errno)})"
        raise
    finally:
        os.close(fd)
    return None
