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
"""Of the files of one volume: what an object of the API may hold in all. They lie in the node's memory."""


def choose(projection: Projection, entries: Mapping[str, bytes] | None, field: str) -> dict[str, bytes]:
    """Files by relative path: every entry, or those that the manifest picks. Raises VolumeFailed for what is missing. Pure."""
    if entries is None:
        if projection.is_optional:
            return {}
        raise VolumeFailed(field, f"no {projection.kind} {projection.name} in this namespace; create it, or set optional: true")
    found = _pick(projection, entries, field) if projection.items else dict(entries)
    if sum(map(len, found.values())) > MAX_BYTES:  # one entry may be asked for under many paths
        raise VolumeFailed(field, f"the files of {projection.kind} {projection.name} take more than {MAX_BYTES} bytes; pick fewer with items")
    return found


def _pick(projection: Projection, entries: Mapping[str, bytes], field: str) -> dict[str, bytes]:
    found = {}
    for item in projection.items:
        if item.key in entries:
            found[item.path] = entries[item.key]
        elif not projection.is_optional:
            raise VolumeFailed(field, f"{projection.kind} {projection.name} has no key {item.key}; add it, or set optional: true")
    for path in found:
        if any(other.startswith(path + "/") for other in found):
            problem = f"{path} would be a file and a directory; use paths of which none lies below another"
            raise VolumeFailed(f"{field}.items", problem, reason="InvalidVolume", is_lasting=True)
    return found


def write(directory: str, files: Mapping[str, bytes], *, mode: int, owner: int) -> bool:
    """Bring *directory*, that nobody else writes to, to hold *files*; False when it does already. A crash at any point leaves the old or the new."""
    if _read(directory, files) == files and set(_names(directory)) == _tops(files):
        return False
    _sweep(directory)
    fresh = f"..{os.urandom(6).hex()}"
    os.mkdir(os.path.join(directory, fresh), 0o755)
    for path, content in files.items():
        _write_file(os.path.join(directory, fresh), path, content, mode=mode, owner=owner)
    os.symlink(fresh, os.path.join(directory, _NEW_DATA))
    os.rename(os.path.join(directory, _NEW_DATA), os.path.join(directory, _DATA))
    _link(directory, _tops(files))
    _sweep(directory)
    return True


def _sweep(directory: str) -> None:
    """Remove what the last write replaced, or what one that failed or was killed left half made."""
    kept = {_DATA}
    with contextlib.suppress(FileNotFoundError):
        kept.add(os.readlink(os.path.join(directory, _DATA)))
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name == _NEW_DATA:
            os.unlink(path)
        elif name.startswith("..") and name not in kept:
            shutil.rmtree(path)


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
