"""Giving up rights for good, by raw calls: capabilities, privileges by exec, system calls. For processes of ours that read hostile bytes.

Sources: capset(2), seccomp(2), sync_file_range(2), linux/filter.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from skerry_node.kernel import syscalls

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 22, 2, 38, 1
_CAPABILITY_VERSION_3 = 0x20080522
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def drop_capabilities() -> None:
    """Have none, and gain none by execve."""
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def install_filter(program: bytes) -> None:
    """Hold this thread, and those that it starts, to *program*, an array of struct sock_filter. Needs no_new_privs."""
    held = _Program(len(program) // 8, program)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(held), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def become_mapped() -> None:
    """Be the user and the group that 0 is mapped to: until then a child is, outside, who its parent is."""
    with contextlib.suppress(PermissionError):  # denied where the map was made without a right
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the thread that made this process ends; a change of user forgets it."""
    syscalls.prctl(_PR_SET_PDEATHSIG, 9)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to write that part of a file to the disk, without waiting; that it does not is no error."""
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def write_maps(pid: int, host_id: int | None) -> None:
    """Map user and group 0 of the new user namespace of *pid* to *host_id*, and nothing else; None: to our own, which needs no right."""
    uid, gid = (os.geteuid(), os.getegid()) if host_id is None else (host_id, host_id)
    denial = [("setgroups", "deny")] if host_id is None else []
    for name, text in (*denial, ("uid_map", f"0 {uid} 1\n"), ("gid_map", f"0 {gid} 1\n")):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
