"""The entries of a ConfigMap or Secret as files, changed all at once: names are links through `..data`, and that link is replaced by a rename.

The layout is the kubelet's (pkg/volume/util/atomic_writer.go), so that programs which watch it for pods find what they know.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping

from skerry_api.volumes import Projection
from skerry_node.volumes.errors import VolumeFailed

_DATA, _NEW_DATA = "..data", "..data_new"
MAX_BYTES = 1 << 20
"""What an object of the API may hold in all."""


def choose(projection: Projection, entries: Mapping[str, bytes] | None, field: str) -> dict[str, bytes]:
    """Files by relative path: every entry, or those that the manifest picks. Raises VolumeFailed for what is missing. Pure."""
    if entries is None:
        if projection.is_optional:
            return {}
        raise VolumeFailed(field, f"no {projection.kind} {projection.name} in this namespace; create it, or set optional: true")
    if sum(map(len, entries.values())) > MAX_BYTES:
        raise VolumeFailed(field, f"{projection.kind} {projection.name} is larger than {MAX_BYTES} bytes")
    if not projection.items:
        return {key: content for key, content in entries.items() if "/" not in key and key not in {"", ".", ".."}}
    found = {}
    for item in projection.items:
        if item.key in entries:
            found[item.path] = entries[item.key]
        elif not projection.is_optional:
            raise VolumeFailed(field, f"{projection.kind} {projection.name} has no key {item.key}; add it, or set optional: true")
    return found


def write(directory: str, files: Mapping[str, bytes], *, mode: int, owner: int) -> bool:
    """Bring *directory*, that nobody else writes to, to hold *files*; False when it does already. A crash at any point leaves the old or the new."""
    if _read(directory, files) == files and set(_names(directory)) == _tops(files):
        return False
    fresh = f"..{os.urandom(6).hex()}"
    os.mkdir(os.path.join(directory, fresh), 0o755)
    for path, content in files.items():
        _write_file(os.path.join(directory, fresh), path, content, mode=mode, owner=owner)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, _NEW_DATA))
    os.symlink(fresh, os.path.join(directory, _NEW_DATA))
    os.rename(os.path.join(directory, _NEW_DATA), os.path.join(directory, _DATA))
    _link(directory, _tops(files))
    for name in os.listdir(directory):
        if name.startswith("..") and name not in {fresh, _DATA}:
            shutil.rmtree(os.path.join(directory, name))
    return True


def _tops(files: Mapping[str, bytes]) -> set[str]:
    return {path.partition("/")[0] for path in files}


def _names(directory: str) -> list[str]:
    return [name for name in os.listdir(directory) if not name.startswith("..")]


def _read(directory: str, wanted: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """What stands there under the wanted paths; None while nothing does."""
    if not os.path.lexists(os.path.join(directory, _DATA)):
        return None
    found = {}
    for path in wanted:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(directory, _DATA, path), "rb") as file:
            found[path] = file.read()
    return found


def _write_file(root: str, path: str, content: bytes, *, mode: int, owner: int) -> None:
    parent = root
    for part in path.split("/")[:-1]:
        parent = os.path.join(parent, part)
        os.makedirs(parent, mode=0o755, exist_ok=True)
    fd = os.open(os.path.join(root, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fchown(fd, owner, owner)
        os.fchmod(fd, mode)


def _link(directory: str, tops: set[str]) -> None:
    for name in set(_names(directory)) - tops:
        os.unlink(os.path.join(directory, name))
    for name in tops:
        with contextlib.suppress(FileExistsError):
            os.symlink(f"{_DATA}/{name}", os.path.join(directory, name))
