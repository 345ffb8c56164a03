"""The keeper's own root: a tmpfs with proc, sys, the device nodes and the writable layers' filesystem, and no host path in reach.

It is small on purpose: a sandbox's mount namespace starts as a copy of it, and copying costs by its size.
"""

from __future__ import annotations

import os
import stat

from skerry_node.kernel import syscalls

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
"""Documentation/admin-guide/devices.txt; ptmx, the seventh, is a link into the sandbox's own devpts."""
DEVICE_LINKS = {
    "ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}  # fmt: skip
NEW_ROOT, EMPTY, DEVICE_TREE, SCRATCH, STAGE, LOOPS = b"/root", b"/empty", b"/dev", b"/scratch", b"/stage", b"/loops"
PROC_INSIDE, SYS_INSIDE, DEV_INSIDE, MEMORY_INSIDE = b"/in-proc", b"/in-sys", b"/in-dev", b"/in-memory"
"""Where a child builds its own mounts, in its own copy of the tree."""
_DIRECTORIES = (
    NEW_ROOT, EMPTY, DEVICE_TREE, SCRATCH, STAGE, LOOPS, PROC_INSIDE, SYS_INSIDE, DEV_INSIDE, MEMORY_INSIDE, b"/proc", b"/sys", b"/old",
)  # fmt: skip


def enter(build_dir: bytes, scratch_dir: bytes) -> None:
    """Leave the host's mount namespace for a private tree that is built over *build_dir* (an empty directory).

    Needs CAP_SYS_ADMIN. Afterwards host paths are reachable only through fds that were opened before.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", None, flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    syscalls.mount(b"skerry-keeper", build_dir, b"tmpfs", flags=flags, data=b"mode=0755,size=16m")
    for name in _DIRECTORIES:
        os.mkdir(build_dir + name, 0o755)
    os.chmod(build_dir + STAGE, 0o700)
    os.chmod(build_dir + LOOPS, 0o700)
    syscalls.mount(b"proc", build_dir + b"/proc", b"proc", flags=flags | syscalls.MS_NODEV)
    syscalls.mount(b"sysfs", build_dir + b"/sys", b"sysfs", flags=flags | syscalls.MS_NODEV | syscalls.MS_RDONLY)
    syscalls.mount(scratch_dir, build_dir + SCRATCH, None, flags=syscalls.MS_BIND)
    _fill_device_tree(build_dir + DEVICE_TREE)
    os.chdir(build_dir)
    syscalls.pivot_root(b".", b"old")
    os.chdir("/")
    syscalls.umount(b"/old")
    os.rmdir("/old")


def _fill_device_tree(directory: bytes) -> None:
    syscalls.mount(b"skerry-dev", directory, b"tmpfs", flags=syscalls.MS_NOSUID | syscalls.MS_NOEXEC, data=b"mode=0755,size=64k")
    mask = os.umask(0)
    for name, (major, minor) in DEVICES.items():
        os.mknod(os.path.join(directory, name.encode()), stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, target in DEVICE_LINKS.items():
        os.symlink(target, os.path.join(directory, name.encode()))
    for mount_point in (b"pts", b"shm", b"mqueue"):
        os.mkdir(os.path.join(directory, mount_point), 0o755)
    os.umask(mask)
    remount = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_NOSUID | syscalls.MS_NOEXEC | syscalls.MS_RDONLY
    syscalls.mount(b"none", directory, None, flags=remount)
