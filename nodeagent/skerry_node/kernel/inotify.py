"""inotify(7), as much as is needed to hear that something in a directory was written."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_MODIFY, _MOVED_TO, _CREATE, _ONLYDIR = 0x2, 0x80, 0x100, 0x01000000
_READ_BYTES = 1 << 16


def watch(directory: str) -> int:
    """An fd that is readable after a file of *directory* was written or made; the caller closes it. Raises OSError: there are limits per user."""
    fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
    try:
        _check(_libc.inotify_add_watch(fd, os.fsencode(directory), _MODIFY | _MOVED_TO | _CREATE | _ONLYDIR), "inotify_add_watch")
    except BaseException:
        os.close(fd)
        raise
    return fd


def drain(fd: int) -> None:
    """Forget what was heard."""
    try:
        while len(os.read(fd, _READ_BYTES)) > _READ_BYTES // 2:
            pass
    except BlockingIOError:
        return


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
