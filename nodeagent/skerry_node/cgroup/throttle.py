"""Bytes a second of a block device (Documentation/admin-guide/cgroup-v2.rst, io.max; cgroup-v1/blkio-controller.rst).

On version 1 a hierarchy of its own does this, in which only sandboxes with such a limit have a group. What a program writes through the page
cache is held there only when it asks for it to be on the disk (fsync, O_DIRECT): written back later, it is the kernel's and nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, TypedDict

from skerry_node.cgroup import hierarchy
from skerry_node.model import Limits

if TYPE_CHECKING:
    from skerry_node.cgroup.group import Group

_READ_V1, _WRITE_V1 = "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"
_IO_V2 = "io.max"
_UNKNOWN = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
_PASSES = 100


class Held(TypedDict):
    """Those fields of Limits that this room writes."""

    read_bytes_per_second: int | None
    write_bytes_per_second: int | None


def read(found: Group) -> Held:
    """What is in force; nothing where this kernel cannot."""
    if found.version == 2:
        values = dict(word.split("=") for line in _lines(found, "pids", _IO_V2) for word in line.split()[1:])
        return Held(read_bytes_per_second=_number(values.get("rbps")), write_bytes_per_second=_number(values.get("wbps")))
    if hierarchy.BLKIO not in found.paths:
        return Held(read_bytes_per_second=None, write_bytes_per_second=None)
    reads, writes = (next((line.split()[1] for line in _lines(found, hierarchy.BLKIO, name)), None) for name in (_READ_V1, _WRITE_V1))
    return Held(read_bytes_per_second=_number(reads), write_bytes_per_second=_number(writes))


def write(found: Group, limits: Limits, device: str | None) -> None:
    """Bring what is in force to *limits*, on *device*. Raises OSError that says what this node lacks."""
    wanted = Held(read_bytes_per_second=limits.read_bytes_per_second, write_bytes_per_second=limits.write_bytes_per_second)
    if read(found) == wanted:
        return
    if not limits.holds_io:
        _lift(found)
    elif device is None:
        raise OSError(errno.ENOTSUP, "limits.io: the writable layer is on no block device that this kernel could limit")
    elif found.version == 2:
        _write_v2(found, limits, device)
    else:
        _write_v1(found, limits, device)


def _write_v2(found: Group, limits: Limits, device: str) -> None:
    reads, writes = limits.read_bytes_per_second, limits.write_bytes_per_second
    try:
        found.write("pids", _IO_V2, f"{device} rbps={'max' if reads is None else reads} wbps={'max' if writes is None else writes}")
    except FileNotFoundError as error:
        if not found.exists():
            raise
        raise OSError(errno.ENOTSUP, "limits.io: the io controller is not handed down to sandboxes on this node") from error


def _write_v1(found: Group, limits: Limits, device: str) -> None:
    path = found.paths.get(hierarchy.BLKIO)
    if path is None:
        raise OSError(errno.ENOTSUP, "limits.io: no blkio hierarchy is mounted on this node; mount it, or cgroup2")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    for name, value in ((_READ_V1, limits.read_bytes_per_second), (_WRITE_V1, limits.write_bytes_per_second)):
        found.write(hierarchy.BLKIO, name, f"{device} {value or 0}")
    _gather(found)


def _gather(found: Group) -> None:
    """Move every process of the sandbox into the group that may have come after them: passes until one finds nobody new."""
    moved: set[str] = set()
    for _ in range(_PASSES):
        new = set(found.read("pids", "cgroup.procs").split()) - moved - {"0"}
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                found.write(hierarchy.BLKIO, "cgroup.procs", pid)
        if not new:
            return
        moved |= new


def _lift(found: Group) -> None:
    """Take the limits off, of whatever device they are."""
    if found.version == 2:
        for line in _lines(found, "pids", _IO_V2):
            found.write("pids", _IO_V2, f"{line.split()[0]} rbps=max wbps=max")
        return
    for name in (_READ_V1, _WRITE_V1):
        for line in _lines(found, hierarchy.BLKIO, name):
            found.write(hierarchy.BLKIO, name, f"{line.split()[0]} 0")


def _lines(found: Group, controller: str, name: str) -> list[str]:
    try:
        return found.read(controller, name).splitlines()
    except OSError as error:
        if error.errno in _UNKNOWN:
            return []
        raise


def _number(text: str | None) -> int | None:
    return None if text is None or text == "max" else int(text)
