"""The mounts of a sandbox: proc, sys, dev, shm, and the three files of /etc. Runs in the child.

Nearly all of it needs no root filesystem and is built while the child waits; a launch only moves it into place.

Targets are found by openat2 below the new root's fd, without magic links, and every mount is put there by fd: a path in a hostile tree is never
walked by name. What is masked and read-only is Docker's and containerd's lists together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

from skerry_node.keeper import tree, wire
from skerry_node.kernel import paths, syscalls

MASKED = {
    "proc": ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"),
    "sys": ("firmware", "devices/virtual/powercap", "kernel/security", "kernel/debug", "fs/bpf"),
}  # fmt: skip
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
SHM_BYTES = 64 << 20
"""Docker's default."""
_NO_EXEC = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_AT_FDCWD = -100
ETC_FILES = (b"hosts", b"resolv.conf", b"hostname")
_STRICT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS


@dataclass(frozen=True, slots=True)
class Prepared:
    """What waits below the keeper's tree until the root is there: three mount trees, and the memory of shm and the files of /etc."""

    proc_fd: int
    sys_fd: int
    dev_fd: int
    memory_fd: int
    file_fds: dict[bytes, int]


def prepare(*, host_network: bool) -> Prepared:
    """Build everything that needs no root filesystem, in the child's own copy of the keeper's tree. Raises OSError."""
    proc = _mount_on(tree.PROC_INSIDE, b"proc", _NO_EXEC)
    for name in READ_ONLY:
        _bind_read_only(proc, name.encode())
    _mask(proc, MASKED["proc"])
    sys = _mount_sys(host_network=host_network)
    dev = _mount_dev()
    memory = _mount_on(tree.MEMORY_INSIDE, b"tmpfs", _NO_EXEC, size=str(SHM_BYTES).encode(), mode=b"0755")
    os.mkdir("shm", dir_fd=memory)
    os.chmod("shm", 0o1777, dir_fd=memory)  # noqa: S103 - what /dev/shm has everywhere
    shm = syscalls.open_tree(memory, b"shm")
    _attach(shm, dev, b"shm")
    os.close(shm)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    files = {name: os.open(name, flags, 0o644, dir_fd=memory) for name in ETC_FILES}
    return Prepared(proc_fd=proc, sys_fd=sys, dev_fd=dev, memory_fd=memory, file_fds=files)


def attach(root_fd: int, prepared: Prepared) -> None:
    """Move what was prepared below *root_fd*, the root of an attached mount. Raises OSError that names the target."""
    for mounted, target in ((prepared.proc_fd, b"proc"), (prepared.sys_fd, b"sys"), (prepared.dev_fd, b"dev")):
        _attach(mounted, root_fd, target, create=True)
    for name in ETC_FILES:
        clone = syscalls.open_tree(prepared.memory_fd, name)
        _attach_file(clone, root_fd, b"etc/" + name)
        os.close(clone)


def detach(prepared: Prepared) -> None:
    """Take the three trees out of a root that is not wanted, back to where they waited; the files of /etc go with that root."""
    for mounted, target in ((prepared.proc_fd, tree.PROC_INSIDE), (prepared.sys_fd, tree.SYS_INSIDE), (prepared.dev_fd, tree.DEV_INSIDE)):
        fd = os.open(target, os.O_PATH)
        with contextlib.suppress(OSError):  # it never left that place
            syscalls.move_mount(mounted, fd)
        os.close(fd)


def fill(prepared: Prepared, launch: wire.Launch) -> None:
    """Write the files of /etc."""
    contents = {b"hosts": launch.hosts, b"resolv.conf": launch.resolv_conf, b"hostname": launch.hostname + "\n"}
    for name, content in contents.items():
        os.write(prepared.file_fds[name], content.encode("utf-8", "surrogateescape"))


def _mount_on(target: bytes, kind: bytes, attributes: int, **options: bytes) -> int:
    """A fresh filesystem of *kind* on *target* of the keeper's tree; returns the fd of its root, which no path can redirect."""
    mounted = _new(kind, attributes, **options)
    fd = os.open(target, os.O_PATH)
    syscalls.move_mount(mounted, fd)  # before 6.15 nothing can be mounted on, or cloned from, a mount that is not attached
    os.close(fd)
    return mounted


def _new(kind: bytes, attributes: int, **options: bytes) -> int:
    context = syscalls.fsopen(kind)
    try:
        for key, value in options.items():
            syscalls.fs_set(context, key.encode(), value)
        syscalls.fs_create(context)
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


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
        clone = syscalls.open_tree(_AT_FDCWD, cover)
        syscalls.mount_setattr(clone, set_flags=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC)
        syscalls.move_mount(clone, target)
        os.close(clone)
        os.close(target)


def _mount_sys(*, host_network: bool) -> int:
    """A sysfs of our own network namespace; the host's, when that is the namespace we are in. Read-only both."""
    if host_network:
        mounted = syscalls.open_tree(_AT_FDCWD, b"/sys")
        fd = os.open(tree.SYS_INSIDE, os.O_PATH)
        syscalls.move_mount(mounted, fd)
        os.close(fd)
    else:
        mounted = _mount_on(tree.SYS_INSIDE, b"sysfs", _NO_EXEC | syscalls.MOUNT_ATTR_RDONLY)
    _mask(mounted, MASKED["sys"])
    return mounted


def _mount_dev() -> int:
    devices = syscalls.open_tree(_AT_FDCWD, tree.DEVICE_TREE)
    fd = os.open(tree.DEV_INSIDE, os.O_PATH)
    syscalls.move_mount(devices, fd)
    os.close(fd)
    no_exec = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
    for target, mounted in (
        (b"pts", _new(b"devpts", no_exec, ptmxmode=b"0666", mode=b"0620", gid=b"5")),
        (b"mqueue", _new(b"mqueue", _NO_EXEC)),
    ):
        _attach(mounted, devices, target)
        os.close(mounted)
    return devices


def _attach_file(mounted: int, root_fd: int, target: bytes) -> None:
    """Put a file over the image's own, made when it is missing; where the image has something else there, it keeps that."""
    try:
        fd = _find_file(root_fd, target)
        syscalls.move_mount(mounted, fd)
        os.close(fd)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.ELOOP, errno.EXDEV}:
            raise


def _find_file(root_fd: int, path: bytes) -> int:
    try:
        return syscalls.openat2(root_fd, path, flags=os.O_PATH, resolve=paths.IN_ROOT)
    except FileNotFoundError:
        paths.ensure_directory(root_fd, b"etc")
        flags = os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        os.close(syscalls.openat2(root_fd, path, flags=flags, mode=0o644, resolve=paths.IN_ROOT))
        return syscalls.openat2(root_fd, path, flags=os.O_PATH, resolve=paths.IN_ROOT)
