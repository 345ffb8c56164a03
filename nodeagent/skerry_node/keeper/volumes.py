"""Volumes come as detached mounts by fd, and are put into the new root. Runs in the child, before it enters the root: the root is hostile."""

from __future__ import annotations

import errno
import os
import stat

from skerry_node.keeper import program, wire
from skerry_node.kernel import paths, syscalls


def attach(root_fd: int, volumes: tuple[wire.Volume, ...], fds: list[int]) -> None:
    """Put each of *fds* at its target below *root_fd*; directories and files that are missing are made. Raises program.StepFailed.

    A target that a link of the image leads into proc, sys or dev is refused: only the root itself and other volumes are mounted on.
    """
    devices = {os.fstat(root_fd).st_dev}
    for volume, fd in zip(volumes, fds, strict=True):
        target = volume.target.encode("utf-8", "surrogateescape").lstrip(b"/")
        try:
            place = _find_place(root_fd, target, is_directory=stat.S_ISDIR(os.fstat(fd).st_mode), devices=devices)
            try:
                syscalls.move_mount(fd, place)
            finally:
                os.close(place)
        except OSError as error:
            problem = f"cannot mount at {volume.target!r}: {os.strerror(error.errno or 0).lower()}; use another mountPath"
            raise program.StepFailed("spec.volumeMounts", problem, reason="InvalidMountPath") from error
        devices.add(os.fstat(fd).st_dev)


def _find_place(root_fd: int, target: bytes, *, is_directory: bool, devices: set[int]) -> int:
    parent, _, name = target.rpartition(b"/")
    directory = target if is_directory else parent
    paths.ensure_directory(root_fd, directory)
    fd = paths.open_path(root_fd, directory, flags=os.O_PATH | os.O_DIRECTORY)
    if os.fstat(fd).st_dev not in devices:
        os.close(fd)
        raise OSError(errno.EXDEV, "the path leads out of the root filesystem")
    if is_directory:
        return fd
    try:
        flags = os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
        os.close(syscalls.openat2(fd, name, flags=flags, mode=0o644, resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS))
        return syscalls.openat2(fd, name, flags=os.O_PATH | os.O_NOFOLLOW, resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(fd)
