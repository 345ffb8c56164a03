"""Calls that a sandbox may try, each with what it gives without the filter and with it. Data and the code to make the calls; no test."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import termios
from collections.abc import Callable

from skerry_node.keeper import seccomp_table
from skerry_node.kernel import syscalls

NUMBERS = seccomp_table.NUMBERS[platform.machine()]
DONE = 0
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: int | bytes) -> int:
    """The errno of a raw call, 0 when it succeeded."""
    ready = [ctypes.c_ulong(value & 0xFFFFFFFFFFFFFFFF) if isinstance(value, int) else value for value in arguments]
    return call_number(NUMBERS[name], *ready)


def call_number(number: int, *ready: ctypes.c_ulong | bytes) -> int:
    """The same by number, with arguments as ctypes takes them."""
    return ctypes.get_errno() if _libc.syscall(ctypes.c_long(number), *ready) < 0 else DONE


def push_input() -> int:
    """TIOCSTI on a terminal of our own."""
    _, theirs = os.openpty()
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    return call("ioctl", theirs, termios.TIOCSTI, b"x")


def push_input_with_a_bit_above() -> int:
    """The kernel reads the request as 32 bits wide; a filter that compares 64 lets this through (CVE-2023-28100)."""
    _, theirs = os.openpty()
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    return call("ioctl", theirs, 1 << 32 | termios.TIOCSTI, b"x")


def paste_selection() -> int:
    return call("ioctl", os.openpty()[1], 0x541C, b"\x03")


def clone_user_namespace() -> int:
    try:
        pid = syscalls.clone(syscalls.CLONE_NEWUSER)
    except OSError as error:
        return error.errno or -1
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return DONE


CLONE_ARGS = struct.pack("=11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)


def clone3_user_namespace() -> int:
    pid = _libc.syscall(ctypes.c_long(NUMBERS["clone3"]), CLONE_ARGS, ctypes.c_size_t(88))
    if pid == 0:
        os._exit(0)
    if pid < 0:
        return ctypes.get_errno()
    os.waitpid(pid, 0)
    return DONE


# (what is tried, what it gives without the filter, what it gives with it)
LACKS = {errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT}  # this kernel was built without it
EPERM = errno.EPERM
PROBES: dict[str, tuple[Callable[[], int], set[int], int]] = {
    "unix socket": (lambda: call("socket", 1, 1, 0), {DONE}, DONE),
    "inet socket": (lambda: call("socket", 2, 1, 0), {DONE}, DONE),
    "inet6 socket": (lambda: call("socket", 10, 2, 0), {DONE, *LACKS}, DONE),
    "netlink route socket": (lambda: call("socket", 16, 3, 0), {DONE}, DONE),
    "pair of unix sockets": (lambda: call("socketpair", 1, 1, 0, bytes(8)), {DONE}, DONE),
    "packet socket": (lambda: call("socket", 17, 3, 0), {DONE, *LACKS}, EPERM),
    "raw inet socket, for which NET_RAW is missing": (lambda: call("socket", 2, 3, 1), {DONE}, EPERM),
    "netlink netfilter socket": (lambda: call("socket", 16, 3, 12), {DONE, *LACKS}, EPERM),
    "netlink audit socket": (lambda: call("socket", 16, 3, 9), {DONE, *LACKS}, EPERM),
    "netlink generic socket": (lambda: call("socket", 16, 3, 16), {DONE}, EPERM),
    "kernel crypto socket": (lambda: call("socket", 38, 5, 0), {DONE, *LACKS}, EPERM),
    "vsock": (lambda: call("socket", 40, 1, 0), {DONE, *LACKS}, EPERM),
    "can socket": (lambda: call("socket", 29, 3, 1), {DONE, *LACKS}, EPERM),
    "xdp socket": (lambda: call("socket", 44, 3, 0), {DONE, *LACKS}, EPERM),
    "pair of tipc sockets": (lambda: call("socketpair", 30, 1, 0, bytes(8)), {DONE, *LACKS}, EPERM),
    "pipe by mknod": (lambda: call("mknodat", _AT_FDCWD, b"/mnt/pipe", 0o010644, 0), {DONE}, DONE),
    "whiteout device": (lambda: call("mknodat", _AT_FDCWD, b"/mnt/whiteout", 0o020644, 0), {DONE}, EPERM),
    "device kmem": (lambda: call("mknodat", _AT_FDCWD, b"/mnt/kmem", 0o020644, 0x102), {EPERM}, EPERM),
    "personality asked": (lambda: call("personality", 0xFFFFFFFF), {DONE}, DONE),
    "personality that does not randomize addresses": (lambda: call("personality", 0x40000), {DONE}, EPERM),
    "personality that maps page zero": (lambda: call("personality", 0x100000), {DONE}, EPERM),
    "TIOCSTI": (push_input, {DONE, errno.EIO}, EPERM),
    "TIOCSTI with a bit above": (push_input_with_a_bit_above, {DONE, errno.EIO}, EPERM),
    "TIOCLINUX": (paste_selection, {errno.ENOTTY, errno.EINVAL}, EPERM),
    "keyctl": (lambda: call("keyctl", 0, -3, 1), {DONE, *LACKS}, EPERM),
    "add_key": (lambda: call("add_key", b"user", b"a", b"b", 1, -2), {DONE, *LACKS}, EPERM),
    "request_key": (lambda: call("request_key", b"user", b"nothing", 0, 0), {errno.ENOKEY, *LACKS}, EPERM),
    "unshare a user namespace": (lambda: call("unshare", 0x10000000), {DONE}, EPERM),
    "clone a user namespace": (clone_user_namespace, {DONE}, EPERM),
    "clone3 a user namespace": (clone3_user_namespace, {DONE}, errno.ENOSYS),
    "setns": (lambda: call("setns", -1, 0), {errno.EBADF}, EPERM),
    "mount": (lambda: call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, 0), {DONE}, EPERM),
    "umount": (lambda: call("umount2", b"/mnt", 2), {DONE}, EPERM),
    "fsopen": (lambda: call("fsopen", b"tmpfs", 0), {DONE}, EPERM),
    "open_tree that clones": (lambda: call("open_tree", _AT_FDCWD, b"/mnt", 1), {DONE}, EPERM),
    "mount_setattr": (lambda: call("mount_setattr", -1, b"", 0, bytes(32), 32), {errno.EBADF, errno.ENOENT, DONE}, EPERM),
    "sethostname": (lambda: call("sethostname", b"other", 5), {DONE}, EPERM),
    "io_uring_setup": (lambda: call("io_uring_setup", 1, bytes(120)), {DONE, *LACKS}, EPERM),
    "bpf": (lambda: call("bpf", -1, bytes(8), 8), {errno.EINVAL, EPERM, *LACKS}, EPERM),
    "userfaultfd": (lambda: call("userfaultfd", 1), {DONE, *LACKS}, EPERM),
    "pidfd_getfd": (lambda: call("pidfd_getfd", -1, 0, 0), {errno.EBADF}, EPERM),
    "process_vm_readv of itself": (lambda: call("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0), {DONE}, DONE),
    "a number far beyond the table": (lambda: call_number(4000), {errno.ENOSYS}, errno.ENOSYS),
}
