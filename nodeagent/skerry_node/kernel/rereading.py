"""Small files of the kernel that are read again and again, through descriptors that stay open.

Each call keeps the interpreter's lock. Python's own calls let go of it, and a thread that does so thousands of times in a row waits up to 5 ms
(sys.getswitchinterval) to get it back each time, as long as another thread computes: a scrape of 1,000 sandboxes then takes half a minute. Whoever
reads many files lets others in of their own accord, every few hundred microseconds.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_openat, _pread, _close = _libc.openat, _libc.pread, _libc.close
_openat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
_pread.restype = ctypes.c_ssize_t
_FLAGS = os.O_RDONLY | os.O_CLOEXEC


class Buffer:
    """Room for one file of at most *size* bytes; what is longer is cut. For one thread at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._room = ctypes.create_string_buffer(size)
        self._view = memoryview(self._room)
        self._address = ctypes.addressof(self._room)

    def read(self, fd: int) -> bytes:
        """What the file says now, from its beginning. Raises OSError: ENODEV when a control group has been removed."""
        return bytes(self._view[: _check(_pread(fd, self._address, self._size, 0), "pread")])


def open_at(directory_fd: int, path: bytes) -> int:
    """Open the file *path* below *directory_fd* for reading; it is closed on exec. Raises OSError."""
    return _check(_openat(directory_fd, path, _FLAGS), "openat")


def close(fd: int) -> None:
    """Close *fd*, which is open for reading: nothing can be lost."""
    _close(fd)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
