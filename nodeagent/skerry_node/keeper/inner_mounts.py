"""The mounts of a sandbox below its new root: proc, sys, dev, shm, and the three files of /etc. Runs in the child.

Targets are found by openat2 below the new root's fd, without magic links, and every mount is put there by fd: a path in a hostile tree is never
walked by name. What is masked and read-only is Docker's and containerd's lists together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from skerry_node.kernel import syscalls
from skerry_node.keeper import tree, wire

MASKED = {
    "proc": ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"),
    "sys": ("firmware", "devices/virtual/powercap", "kernel/security", "kernel/debug", "fs/bpf"),
}  # fmt: skip
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
SHM_BYTES = 64 << 20
"""Docker's default."""
_NO_EXEC = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_STRICT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def build(root_fd: int, launch: wire.Launch) -> None:
    """Mount everything below *root_fd*, the unmoved new root. Raises OSError that names the target."""
    proc = _mount_new(root_fd, b"proc", b"proc", _NO_EXEC)
    for name in READ_ONLY:
        _bind_read_only(proc, name.encode())
    _mask(proc, MASKED["proc"])
    _mount_sys(root_fd, host_network=launch.host_network)
    _mount_dev(root_fd)
    _write_etc(root_fd, launch)


def ensure_directory(root_fd: int, path: bytes) -> None:
    """Make the directories of relative *path* that are missing below *root_fd*; what exists is left as it is."""
    done = b""
    for part in path.split(b"/"):
        if part in {b"", b"."}:
            continue
        parent, done = done, done + b"/" + part if done else part
        try:
            os.close(syscalls.openat2(root_fd, done, flags=os.O_PATH, resolve=_IN_ROOT))
        except FileNotFoundError:
            fd = syscalls.openat2(root_fd, parent or b".", flags=os.O_PATH | os.O_DIRECTORY, resolve=_IN_ROOT)
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            os.close(fd)


def _mount_new(root_fd: int, target: bytes, kind: bytes, attributes: int, **options: bytes) -> int:
    """A fresh filesystem of *kind* on directory *target*; returns the fd of its root, which no path can redirect."""
    context = syscalls.fsopen(kind)
    try:
        for key, value in options.items():
            syscalls.fs_set(context, key.encode(), value)
        syscalls.fs_create(context)
        mounted = syscalls.fsmount(context, attributes)
    finally:
        os.close(context)
    _attach(mounted, root_fd, target, create=True)
    return mounted


def _attach(mounted: int, root_fd: int, target: bytes, *, create: bool = False) -> None:
    try:
        fd = syscalls.openat2(root_fd, target, flags=os.O_PATH, resolve=_STRICT)
    except FileNotFoundError:
        if not create:
            raise
        os.mkdir(target, 0o755, dir_fd=root_fd)
        fd = syscalls.openat2(root_fd, target, flags=os.O_PATH, resolve=_STRICT)
    try:
        syscalls.move_mount(mounted, fd)
    finally:
        os.close(fd)


def _bind_read_only(directory_fd: int, name: bytes) -> None:
    try:
        clone = syscalls.open_tree(directory_fd, name)
    except FileNotFoundError:
        return
    syscalls.mount_setattr(clone, set_flags=_NO_EXEC | syscalls.MOUNT_ATTR_RDONLY)
    _attach(clone, directory_fd, name)
    os.close(clone)


def _mask(directory_fd: int, names: tuple[str, ...]) -> None:
    """Cover files with /dev/null and directories with an empty one; what the kernel does not have needs no cover."""
    for name in names:
        try:
            target = syscalls.openat2(directory_fd, name.encode(), flags=os.O_PATH, resolve=_STRICT)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EACCES}:
                continue
            raise
        cover = tree.EMPTY if stat.S_ISDIR(os.fstat(target).st_mode) else tree.DEVICE_TREE + b"/null"
        clone = syscalls.open_tree(-100, cover)  # AT_FDCWD
        syscalls.mount_setattr(clone, set_flags=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC)
        syscalls.move_mount(clone, target)
        os.close(clone)
        os.close(target)


def _mount_sys(root_fd: int, *, host_network: bool) -> None:
    """A sysfs of our own network namespace; the host's, when that is the namespace we are in. Read-only both."""
    if host_network:
        mounted = syscalls.open_tree(-100, b"/sys")
        _attach(mounted, root_fd, b"sys", create=True)
    else:
        mounted = _mount_new(root_fd, b"sys", b"sysfs", _NO_EXEC | syscalls.MOUNT_ATTR_RDONLY)
    _mask(mounted, MASKED["sys"])
    os.close(mounted)


def _mount_dev(root_fd: int) -> None:
    devices = syscalls.open_tree(-100, tree.DEVICE_TREE)
    _attach(devices, root_fd, b"dev", create=True)
    no_exec = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
    os.close(_mount_new(devices, b"pts", b"devpts", no_exec, ptmxmode=b"0666", mode=b"0620", gid=b"5"))
    os.close(_mount_new(devices, b"mqueue", b"mqueue", _NO_EXEC))
    os.close(devices)


def _write_etc(root_fd: int, launch: wire.Launch) -> None:
    """One small tmpfs holds /dev/shm and the files of /etc: the sandbox's own, counted in its cgroup, gone with it."""
    context = syscalls.fsopen(b"tmpfs")
    syscalls.fs_set(context, b"size", str(SHM_BYTES).encode())
    syscalls.fs_set(context, b"mode", b"0755")
    syscalls.fs_create(context)
    memory = syscalls.fsmount(context, _NO_EXEC)
    os.close(context)
    stage = os.open(tree.STAGE_INSIDE, os.O_PATH)
    syscalls.move_mount(memory, stage)  # before 6.15 a clone can only be taken of an attached mount
    os.close(stage)
    os.mkdir("shm", dir_fd=memory)
    os.chmod("shm", 0o1777, dir_fd=memory)
    _bind(memory, b"shm", root_fd, b"dev/shm")
    files = {b"hosts": launch.hosts, b"resolv.conf": launch.resolv_conf, b"hostname": launch.hostname + "\n"}
    for name, content in files.items():
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=memory)
        os.write(fd, content.encode("utf-8", "surrogateescape"))
        os.close(fd)
        if _ensure_etc_file(root_fd, b"etc/" + name):
            _bind(memory, name, root_fd, b"etc/" + name)
    os.close(memory)


def _bind(source_fd: int, name: bytes, root_fd: int, target: bytes) -> None:
    clone = syscalls.open_tree(source_fd, name)
    fd = syscalls.openat2(root_fd, target, flags=os.O_PATH, resolve=_IN_ROOT)
    syscalls.move_mount(clone, fd)
    os.close(fd)
    os.close(clone)


def _ensure_etc_file(root_fd: int, path: bytes) -> bool:
    """Make the mount point when it is missing; False when the image has something there that cannot be one."""
    try:
        ensure_directory(root_fd, b"etc")
        flags = os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        os.close(syscalls.openat2(root_fd, path, flags=flags, mode=0o644, resolve=_IN_ROOT))
    except OSError as error:
        if error.errno == errno.EROFS:
            return False
        return error.errno == errno.EACCES
    return True
