"""The root filesystem of a stage, read from its sealed layers without a mount: upper wins, whiteouts hide, opaque directories end the search.

Source: OCI image-spec, layer.md; Documentation/filesystems/overlayfs.rst for how `image/tree.py` wrote them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from skerry_node.build import trees
from skerry_node.image import reading, tree

_NO_CHILDREN: Mapping[bytes, trees.Node] = {}


@dataclass(frozen=True, slots=True)
class _Part:
    """An inode of one layer."""

    layer: int
    reader: reading.Reader
    inode: reading.Inode


@dataclass(slots=True)
class _Node:
    """A merged inode: what is seen, and for a directory every layer's part of it, uppermost first."""

    parts: tuple[_Part, ...]
    _children: Mapping[bytes, trees.Node] | None = field(default=None)

    @property
    def _inode(self) -> reading.Inode:
        return self.parts[0].inode

    @property
    def mode(self) -> int:
        return self._inode.mode

    @property
    def uid(self) -> int:
        return self._inode.uid

    @property
    def gid(self) -> int:
        return self._inode.gid

    @property
    def mtime_ns(self) -> int:
        return self._inode.mtime_ns

    @property
    def size(self) -> int:
        return self._inode.size if stat.S_ISREG(self.mode) else 0

    @property
    def target(self) -> bytes:
        return b"".join(self.parts[0].reader.read(self._inode)) if stat.S_ISLNK(self.mode) else b""

    @property
    def device(self) -> tuple[int, int]:
        return self._inode.device

    @property
    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(pair for pair in self._inode.xattrs if pair[0].startswith(b"user."))

    @property
    def identity(self) -> object | None:
        is_shared = self._inode.links > 1 and not stat.S_ISDIR(self.mode)
        return (self.parts[0].layer, self._inode.slot) if is_shared else None

    def children(self) -> Mapping[bytes, trees.Node]:
        """The merged directory."""
        if not stat.S_ISDIR(self.mode):
            return _NO_CHILDREN
        if self._children is None:
            self._children = _merge(self.parts)
        return self._children

    def read(self) -> Iterator[bytes]:
        """The content, from the uppermost layer that has it."""
        return self.parts[0].reader.read(self._inode)


def _merge(parts: Sequence[_Part]) -> dict[bytes, trees.Node]:
    found: dict[bytes, list[_Part]] = {}
    closed: set[bytes] = set()
    for part in parts:
        for name, slot in part.reader.list(part.inode).items():
            if name in closed:
                continue
            inode = part.reader.inode(slot)
            is_directory = stat.S_ISDIR(inode.mode)
            if _is_whiteout(inode) or (name in found and not is_directory):
                closed.add(name)
                continue
            found.setdefault(name, []).append(_Part(part.layer, part.reader, inode))
            if not is_directory or tree.OPAQUE_XATTR in inode.xattrs:
                closed.add(name)
    return {name: _Node(tuple(stack)) for name, stack in found.items()}


def _is_whiteout(inode: reading.Inode) -> bool:
    return stat.S_ISCHR(inode.mode) and inode.device == (0, 0)


class _Empty:
    """The root of FROM scratch."""

    mode, uid, gid, mtime_ns, size, target, device, identity = stat.S_IFDIR | 0o755, 0, 0, 0, 0, b"", (0, 0), None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def children(self) -> Mapping[bytes, trees.Node]:
        return _NO_CHILDREN

    def read(self) -> Iterator[bytes]:
        return iter(())


@contextlib.contextmanager
def opened(layers_fd: int, names: Sequence[str]) -> Iterator[trees.Node]:
    """The root of the layers *names*, file names in the directory *layers_fd*, lowest first. Raises OSError, DamagedContent."""
    with contextlib.ExitStack() as stack:
        parts = []
        for number, name in enumerate(names):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layers_fd)
            stack.callback(os.close, fd)
            reader = reading.Reader(fd)
            parts.append(_Part(number, reader, reader.root))
        yield _Node(_above_opaque(parts)) if parts else _Empty()


def _above_opaque(parts: Sequence[_Part]) -> tuple[_Part, ...]:
    """The roots that are seen, uppermost first: an opaque one hides all below it."""
    seen: list[_Part] = []
    for part in reversed(parts):
        seen.append(part)
        if tree.OPAQUE_XATTR in part.inode.xattrs:
            break
    return tuple(seen)
