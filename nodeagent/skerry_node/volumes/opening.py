"""A mount of a volume as a detached fd, which whoever lives in the sandbox puts in its place. Runs in the agent's own mount namespace; needs root."""

from __future__ import annotations

import contextlib
import os

from skerry_api.volumes import EmptyDir, HostPath, Projection, Volume, VolumeMount
from skerry_node.kernel import paths, syscalls
from skerry_node.volumes import places as places_
from skerry_node.volumes.errors import VolumeFailed

_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


def open_mount(places: places_.Places, uid: str, volume: Volume, mount: VolumeMount, *, owner: int) -> int:
    """A clone of the mount that *mount* asks for; the caller closes it. Objects are always read-only. Raises VolumeFailed.

    What a sandbox wrote into its volume before is hostile: a subPath is resolved inside the volume, whatever links lie there.
    """
    field = f"spec.volumeMounts[{mount.path}]"
    try:
        root = os.open(places_.find_path(places, uid, volume), os.O_PATH | os.O_CLOEXEC)
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, root)
            if isinstance(volume.source, HostPath):  # a link on the way may have led elsewhere
                places_.check_host_path(os.readlink(f"/proc/self/fd/{root}"), places.host_prefixes, volume.name)
            source = root
            if mount.sub_path:
                source = _open_below(root, mount.sub_path.encode(), owner=owner if isinstance(volume.source, EmptyDir) else None)
                opened.callback(os.close, source)
            clone = syscalls.open_tree(source, b"")
    except OSError as error:
        problem = f"cannot open {mount.sub_path or volume.name!r}: {os.strerror(error.errno or 0).lower()}; name what is there"
        raise VolumeFailed(field, problem, reason="InvalidVolume", is_lasting=isinstance(volume.source, HostPath)) from error
    is_read_only = mount.is_read_only or isinstance(volume.source, Projection)
    try:
        syscalls.mount_setattr(clone, set_flags=_ATTRIBUTES | (syscalls.MOUNT_ATTR_RDONLY if is_read_only else 0))
    except BaseException:
        os.close(clone)
        raise
    return clone


def _open_below(root: int, path: bytes, *, owner: int | None) -> int:
    """Open *path* below *root*, made of directories of *owner* when it is missing and there is one."""
    try:
        return paths.open_path(root, path)
    except FileNotFoundError:
        if owner is None:
            raise
    paths.ensure_directory(root, path, owner=owner)
    return paths.open_path(root, path)
