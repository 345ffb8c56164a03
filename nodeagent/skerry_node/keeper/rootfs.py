"""Root filesystems in the keeper: each layer mounted once per node, and an overlay of idmapped clones for each sandbox.

Runs in the initial user namespace and in the keeper's own mount namespace. Nothing here follows a path inside an image.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os

from skerry_node.keeper import tree
from skerry_node.kernel import loop, syscalls

_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_STATIC_OPTIONS = ((b"index", b"off"), (b"metacopy", b"off"), (b"xino", b"off"), (b"redirect_dir", b"off"))
_stage_numbers = itertools.count()


class Layers:
    """The layers in use, mounted once each and held by fd; *directory_fd* is where their EROFS images lie."""

    def __init__(self, directory_fd: int) -> None:
        self._directory_fd = directory_fd
        self._mounts: dict[str, int] = {}
        self._stages: dict[str, bytes] = {}

    def ensure(self, name: str) -> int:
        """The fd of the mounted layer *name*. Raises OSError when the image is missing or damaged."""
        fd = self._mounts.get(name)
        if fd is None:
            fd = self._mounts[name] = self._mount(name)
        return fd

    def forget(self, name: str) -> None:
        """Unmount layer *name* once no sandbox uses it; unknown names are fine."""
        fd = self._mounts.pop(name, None)
        if fd is not None:
            os.close(fd)
        stage = self._stages.pop(name, None)
        if stage is not None:
            syscalls.umount(stage)
            os.rmdir(stage)

    def _mount(self, name: str) -> int:
        path = f"/proc/self/fd/{self._directory_fd}/{name}".encode()
        try:
            return _mount_erofs(path)
        except OSError as error:
            if error.errno != errno.ENOTBLK:  # before 6.12 EROFS wants a block device
                raise
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory_fd)
        try:
            with loop.attached(fd, tree.LOOPS) as device:
                mounted = _mount_erofs(device)
        finally:
            os.close(fd)
        return self._attach(name, mounted)

    def _attach(self, name: str, mounted: int) -> int:
        """Before 6.15 only an attached mount can be cloned."""
        stage = tree.STAGE + f"/layer-{next(_stage_numbers)}".encode()
        os.mkdir(stage, 0o700)
        with contextlib.closing(_Fd(mounted)):
            target = os.open(stage, os.O_PATH | os.O_CLOEXEC)
            with contextlib.closing(_Fd(target)):
                syscalls.move_mount(mounted, target)
        self._stages[name] = stage
        return os.open(stage, os.O_PATH | os.O_CLOEXEC)


class _Fd:
    """An fd that contextlib.closing can close."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)


def _mount_erofs(source: bytes) -> int:
    context = syscalls.fsopen(b"erofs")
    try:
        syscalls.fs_set(context, b"source", source)
        syscalls.fs_set(context, b"ro")
        syscalls.fs_create(context)
        return syscalls.fsmount(context, _READ_ONLY)
    finally:
        os.close(context)


def mount_overlay(layer_fds: list[int], *, writable: str | int, userns_fd: int, read_only: bool) -> int:
    """A root filesystem as a detached mount fd: the writable layer over *layer_fds* (lowest first).

    *writable* is the layer's name, or a detached mount of its own, which stays the caller's.
    Layers hold the image's ids, and *userns_fd* maps them to the sandbox's range. The writable layer holds host ids: overlay
    makes its work directory as host root, whom no map of ours has, and would turn read-only on an idmapped one. The overlay is
    `volatile`: its work directory is renewed by the caller before a second mount. Raises OSError.
    """
    clones: list[int] = []
    try:
        for fd in reversed(layer_fds):
            clones.append(_clone(fd, b"", _READ_ONLY, userns_fd))
        upper = writable if isinstance(writable, int) else _open_writable(writable, clones)
        lowers, attributes = clones[: len(layer_fds)], syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        if read_only:
            attributes |= syscalls.MOUNT_ATTR_RDONLY
        try:
            return _create_by_fd(lowers, upper, attributes)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            return _create_by_path(lowers, upper, attributes)
    finally:
        for fd in clones:
            os.close(fd)


def _open_writable(name: str, opened: list[int]) -> int:
    scratch = os.open(tree.SCRATCH, os.O_PATH | os.O_CLOEXEC)
    opened.append(scratch)
    found = syscalls.open_tree(scratch, name.encode())
    opened.append(found)
    return found


def _clone(fd: int, path: bytes, attributes: int, userns_fd: int) -> int:
    clone = syscalls.open_tree(fd, path)
    try:
        syscalls.mount_setattr(clone, set_flags=attributes | syscalls.MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
    except BaseException:
        os.close(clone)
        raise
    return clone


def _create_by_fd(lowers: list[int], writable: int, attributes: int) -> int:
    """Overlay takes its layers by fd since Linux 6.15."""
    context = syscalls.fsopen(b"overlay")
    upper = os.open(b"upper", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=writable)
    work = os.open(b"work", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=writable)
    try:
        for fd in lowers:
            syscalls.fs_set_fd(context, b"lowerdir+", fd)
        syscalls.fs_set_fd(context, b"upperdir", upper)
        syscalls.fs_set_fd(context, b"workdir", work)
        return _finish(context, attributes)
    finally:
        for fd in (context, upper, work):
            os.close(fd)


def _create_by_path(lowers: list[int], writable: int, attributes: int) -> int:
    """Older kernels take paths only: the clones are attached for as long as the overlay is being made; it keeps its own."""
    stage = tree.STAGE + f"/overlay-{next(_stage_numbers)}".encode()
    os.mkdir(stage, 0o700)
    attached: list[bytes] = []
    context = syscalls.fsopen(b"overlay")
    try:
        for number, fd in enumerate((writable, *lowers)):
            path = stage + b"/%d" % number
            os.mkdir(path, 0o700)
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                syscalls.move_mount(fd, target)
            finally:
                os.close(target)
            attached.append(path)
        syscalls.fs_set(context, b"lowerdir", b":".join(attached[1:]))
        syscalls.fs_set(context, b"upperdir", attached[0] + b"/upper")
        syscalls.fs_set(context, b"workdir", attached[0] + b"/work")
        return _finish(context, attributes)
    finally:
        os.close(context)
        for path in attached:
            syscalls.umount(path)
        for number in range(len(lowers) + 1):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(stage + b"/%d" % number)
        os.rmdir(stage)


def _finish(context: int, attributes: int) -> int:
    for key, value in _STATIC_OPTIONS:
        syscalls.fs_set(context, key, value)
    syscalls.fs_set(context, b"volatile")
    syscalls.fs_create(context)
    return syscalls.fsmount(context, attributes)
