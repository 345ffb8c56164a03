"""A sandbox's root filesystem as a tar: its writable layer over its sealed layers, merged here. Nothing is mounted, nothing is entered.

What overlayfs shows is what is written (Documentation/filesystems/overlayfs.rst): upper wins, whiteouts hide, opaque directories end the search.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from skerry_node.build import trees, union
from skerry_node.image import diffing, holes, tar, tarwriting, walking

_NOTHING: Mapping[bytes, trees.Node] = {}


def write_root(upper_fd: int | None, *, layers_fd: int, names: Sequence[str], out: tarwriting.Output, id_base: int) -> diffing.Written:
    """Write the root of the layers *names* (lowest first, files in *layers_fd*) under the upper directory at *upper_fd*; None: it never ran.

    Owners are those inside. Left out, and told: devices, sockets. Blocks; needs what `diffing.write_layer` needs. A tree that changes meanwhile
    is written as it was met. Raises InvalidTree, DamagedContent, OSError.
    """
    members = diffing.Members(out, diffing.Rules(id_base=id_base, clamp_seconds=None, is_layer=False))
    with union.opened(layers_fd, names) as lower, contextlib.closing(_Merge(members, upper_fd)) as merge:
        merge.run(lower)
    return members.finish()


@dataclass(slots=True)
class _Level:
    """A directory on the way: its upper part, if there is one, and the names that the layers below show."""

    fd: int | None
    path: bytes
    below: Mapping[bytes, trees.Node]
    names: Iterator[bytes]


class _Merge:
    """The directories that are open between the root and where the merge is."""

    def __init__(self, members: diffing.Members, upper_fd: int | None) -> None:
        self._members = members
        self._upper_fd = upper_fd
        self._device = os.fstat(upper_fd).st_dev if upper_fd is not None else 0
        self._left = tar.MAX_ENTRIES
        self._levels: list[_Level] = []

    def close(self) -> None:
        """Close what is open."""
        while self._levels:
            self._leave()

    def run(self, lower: trees.Node) -> None:
        """Write everything, the root first, parents before children, names in order."""
        found = walking.look(self._upper_fd, b".", b"", device=self._device) if self._upper_fd is not None else None
        self._put(b"", found, lower)
        while self._levels:
            level = self._levels[-1]
            name = next(level.names, None)
            if name is None:
                self._leave()
                continue
            path = level.path + b"/" + name if level.path else name
            found = walking.look(level.fd, name, path, device=self._device) if level.fd is not None else None
            self._put(path, found, level.below.get(name))

    def _put(self, path: bytes, found: walking.Found | None, below: trees.Node | None) -> None:
        """Write one name: what the upper layer has, else what lies below; then enter it when it is a directory."""
        if found is None:
            if below is not None:
                self._put_below(path, below)
            return
        is_directory = stat.S_ISDIR(found.info.st_mode)
        try:
            if not diffing.is_whiteout(found.info):
                self._members.add(found)
        finally:
            if not is_directory:
                walking.close(found)
        if is_directory:
            assert found.fd is not None
            is_merged = below is not None and stat.S_ISDIR(below.mode) and not diffing.is_opaque(found.fd)
            self._enter(path, found.fd, below.children() if is_merged and below is not None else _NOTHING)

    def _put_below(self, path: bytes, node: trees.Node) -> None:
        is_directory = stat.S_ISDIR(node.mode)
        entry = tar.Entry(
            path=(path + b"/" if path else b"./") if is_directory else path, mode=node.mode, uid=node.uid, gid=node.gid, mtime_ns=node.mtime_ns,
            size=node.size, target=node.target, device=node.device, xattrs=node.xattrs,
        )  # fmt: skip
        self._members.put(entry, holes.find_content_of(node.read, node.size) if node.size else None, identity=node.identity)
        if is_directory:
            self._enter(path, None, node.children())

    def _enter(self, path: bytes, fd: int | None, below: Mapping[bytes, trees.Node]) -> None:
        level = _Level(fd=fd, path=path, below=below, names=iter(()))
        self._levels.append(level)
        walking.check_depth(len(self._levels), path)
        upper = walking.list_names(fd, limit=self._left) if fd is not None else []
        self._left -= len(upper)
        level.names = iter(sorted({*upper, *below}))

    def _leave(self) -> None:
        level = self._levels.pop()
        if level.fd is not None:
            os.close(level.fd)
