"""Where the volumes of a sandbox live: made when they are missing, removed with the sandbox.

- an empty directory: beside the writable layer; one with a size limit is a filesystem of its own;
- a ConfigMap or Secret: in the runtime directory, which is memory;
- a path of the host: where it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from skerry_api.volumes import EmptyDir, HostPath, Projection, Volume
from skerry_node.rootfs import filesystems
from skerry_node.volumes.errors import VolumeFailed

_EMPTY_MODE = 0o777
"""As pods have it: whoever the program runs as may write."""


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of this node: of writable layers, of runtime records, of sized volumes; what hostPath may name lies below *host_prefixes*."""

    scratch_dir: str
    sandboxes_dir: str
    volumes_dir: str
    host_prefixes: tuple[str, ...] = ()


def find_path(places: Places, uid: str, volume: Volume) -> str:
    """The directory, or file of the host, that *volume* of sandbox *uid* is."""
    match volume.source:
        case EmptyDir(size_limit_bytes=None):
            return os.path.join(places.scratch_dir, uid, "volumes", volume.name)
        case EmptyDir():
            return os.path.join(places.volumes_dir, uid, volume.name)
        case Projection():
            return os.path.join(places.sandboxes_dir, uid, "volumes", volume.name)
        case HostPath(path):
            return path


def ensure(places: Places, uid: str, volume: Volume, *, owner: int) -> None:
    """Have *volume* there, owned by host id *owner*; its files are kept. May take 20 ms for one with a size. Raises VolumeFailed, OSError."""
    path = find_path(places, uid, volume)
    match volume.source:
        case EmptyDir(size_limit_bytes):
            os.makedirs(path, mode=0o755, exist_ok=True)
            if size_limit_bytes is not None:
                _ensure_sized(path, size_limit_bytes, volume.name)
            os.chmod(path, _EMPTY_MODE)
            os.chown(path, owner, owner)
        case Projection():
            os.makedirs(path, mode=0o755, exist_ok=True)
        case HostPath():
            check_host_path(path, places.host_prefixes, volume.name)


def remove(places: Places, uid: str) -> None:
    """Remove the sized volumes of *uid*; all others go with what they lie in."""
    directory = os.path.join(places.volumes_dir, uid)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if not name.endswith(_IMAGE_SUFFIX):
                filesystems.remove(_image(os.path.join(directory, name)), os.path.join(directory, name))
        shutil.rmtree(directory)


def check_host_path(path: str, prefixes: Sequence[str], name: str) -> None:
    """Whether this node's policy admits *path*. Raises VolumeFailed."""
    if not any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes):
        allowed = f"below {', '.join(prefixes)}" if prefixes else "nowhere; start the agent with --host-path-prefix"
        problem = f"this node's policy refuses {path}; it admits paths {allowed}"
        raise VolumeFailed(f"spec.volumes[{name}].hostPath", problem, reason="HostPathRefused", is_lasting=True)


_IMAGE_SUFFIX = ".img"


def _image(path: str) -> str:
    return path + _IMAGE_SUFFIX


def _ensure_sized(path: str, size_bytes: int, name: str) -> None:
    try:
        filesystems.ensure(_image(path), path, size_bytes=size_bytes)
    except filesystems.FilesystemFailed as error:
        raise VolumeFailed(f"spec.volumes[{name}].emptyDir", str(error)) from error
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(os.path.join(path, "lost+found"))
