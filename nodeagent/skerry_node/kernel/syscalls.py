"""System calls that Python's standard library lacks, through ctypes. Each raises OSError with the call's name.

Numbers are the generic ones that x86_64 and aarch64 share for calls newer than Linux 5.0; older ones stand in `_NUMBERS`.
Nothing here decides anything. Everything is safe in a freshly cloned child: no import, no codec look-up at call time.
"""

from __future__ import annotations

import array
import ctypes
import os
import platform
import struct

_libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL: a clone must not lose it to a thread that is not there
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

# clone(2), pivot_root(2), mknod by number: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "tee": 276},
    "aarch64": {"clone": 220, "pivot_root": 41, "tee": 77},
}[platform.machine()]
_CLONE = _NUMBERS["clone"]
_PIVOT_ROOT = _NUMBERS["pivot_root"]
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_OPENAT2, _MOUNT_SETATTR, _CLOSE_RANGE = 437, 442, 436

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
SIGCHLD = 17
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC, AT_RECURSIVE, AT_EMPTY_PATH = 1, os.O_CLOEXEC, 0x8000, 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_IDMAP = 1, 2, 4, 8, 0x00100000
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 0, 1, 5, 6
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NAME = 4, 36, 15
SPLICE_F_MOVE, SPLICE_F_NONBLOCK = 1, 2
PIDFD_GET_INFO = 0xC0000000 | 64 << 16 | 0xFF << 8 | 11
"""_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info) with the first published size of 64 bytes (linux/pidfd.h, 6.13)."""
PIDFD_INFO_EXIT = 1 << 3


def _check(result: int, what: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return result


def clone(flags: int) -> int:
    """Fork into new namespaces: 0 in the child, the child's pid in the parent. The caller must be single-threaded."""
    return _check(_syscall(_CLONE, ctypes.c_ulong(flags | SIGCHLD), 0, 0, 0, 0), "clone")


def unshare(flags: int) -> None:
    """Leave the namespaces in *flags* for new ones."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces in *flags* of the process that pidfd *fd* names (several at once since 5.8), or the one namespace that it is."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: bytes, target: bytes, kind: bytes | None, *, flags: int = 0, data: bytes | None = None) -> None:
    """mount(2)."""
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data), "mount " + target.decode("utf-8", "replace"))


def umount(target: bytes, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target, flags), "umount " + target.decode("utf-8", "replace"))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2)."""
    _check(_syscall(_PIVOT_ROOT, new_root, put_old), "pivot_root")


def open_tree(directory_fd: int, path: bytes, *, recursive: bool = False) -> int:
    """A detached clone of the mount at *path*, as an fd; EINVAL before 6.15 when *path* is itself detached."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return _check(_syscall(_OPEN_TREE, directory_fd, path, flags), "open_tree")


def move_mount(tree_fd: int, target_fd: int, path: bytes = b"") -> None:
    """Attach a detached mount at *path* below *target_fd*, or at the fd itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    _check(_syscall(_MOVE_MOUNT, tree_fd, b"", target_fd, path, flags), "move_mount")


def mount_setattr(tree_fd: int, *, set_flags: int, userns_fd: int = 0, recursive: bool = False) -> None:
    """Set mount flags, or the id map when MOUNT_ATTR_IDMAP is among them (struct mount_attr, mount_setattr(2))."""
    attr = struct.pack("=QQQQ", set_flags, 0, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(_syscall(_MOUNT_SETATTR, tree_fd, b"", flags, attr, ctypes.c_size_t(len(attr))), "mount_setattr")


def fsopen(kind: bytes) -> int:
    """A new, empty filesystem context."""
    return _check(_syscall(_FSOPEN, kind, 1), "fsopen")


def fs_set(context_fd: int, key: bytes, value: bytes | None = None) -> None:
    """Set a string option of a filesystem context, or a flag when *value* is None."""
    command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
    _check(_syscall(_FSCONFIG, context_fd, command, key, value, 0), "fsconfig " + key.decode("ascii"))


def fs_set_fd(context_fd: int, key: bytes, fd: int) -> None:
    """Give a filesystem context a file by fd; overlay takes its layers so from 6.15 on."""
    _check(_syscall(_FSCONFIG, context_fd, FSCONFIG_SET_FD, key, None, fd), "fsconfig " + key.decode("ascii"))


def fs_create(context_fd: int) -> None:
    """Make the superblock."""
    _check(_syscall(_FSCONFIG, context_fd, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig create")


def fsmount(context_fd: int, attributes: int = 0) -> int:
    """The context's filesystem as a detached mount."""
    return _check(_syscall(_FSMOUNT, context_fd, 1, attributes), "fsmount")


def openat2(directory_fd: int, path: bytes, *, flags: int, mode: int = 0, resolve: int) -> int:
    """openat2(2): open below *directory_fd* under the given resolve rules."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    what = "open " + path.decode("utf-8", "replace")
    return _check(_syscall(_OPENAT2, directory_fd, path, how, ctypes.c_size_t(len(how))), what)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every fd from *first* to *last*."""
    _check(_syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0), "close_range")


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) with one argument."""
    return _check(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")


def sethostname(name: bytes) -> None:
    """sethostname(2), in the caller's uts namespace."""
    _check(_libc.sethostname(name, ctypes.c_size_t(len(name))), "sethostname")


def splice(source_fd: int, target_fd: int, *, offset: int, count: int) -> int:
    """Move up to *count* bytes from a pipe into a file at *offset*; 0 at the end of the pipe, BlockingIOError when it is empty.

    The kernel takes a byte out of the pipe only when the file has it: a kill between the two cannot happen.
    """
    position = ctypes.c_int64(offset)
    return _check(
        _libc.splice(source_fd, None, target_fd, ctypes.byref(position), ctypes.c_size_t(count), SPLICE_F_NONBLOCK),
        "splice",
    )


def splice_into_pipe(source_fd: int, pipe_fd: int, *, count: int) -> int:
    """Move up to *count* bytes from a terminal's master into a pipe; BlockingIOError when the one is empty or the other full (5.11)."""
    return _check(_libc.splice(source_fd, None, pipe_fd, None, ctypes.c_size_t(count), SPLICE_F_NONBLOCK), "splice")


def pidfd_exit_status(pidfd: int) -> int | None:
    """The wait status of a process that has been reaped by anyone, or None when the kernel does not tell (before 6.15)."""
    import fcntl  # noqa: PLC0415 - not on the launch path

    info = array.array("B", struct.pack("=Q", PIDFD_INFO_EXIT) + bytes(56))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info, True)  # noqa: FBT003 - mutate in place
    except OSError:
        return None
    mask = struct.unpack_from("=Q", info, 0)[0]
    return struct.unpack_from("=i", info, 60)[0] if mask & PIDFD_INFO_EXIT else None
