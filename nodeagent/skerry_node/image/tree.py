"""The index of one layer, in memory: names are resolved here, and links are never followed outside. Pure.

Whiteouts become what overlayfs reads: a 0:0 character device, or `trusted.overlay.opaque` on a directory
(Documentation/filesystems/overlayfs.rst; OCI image-spec, layer.md). Both are made from `.wh.` names only.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from skerry_node.image import tar
from skerry_node.image.errors import InvalidLayer

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
MAX_DEPTH, MAX_LINKS, MAX_NAME_BYTES = 512, 40, 255
MAX_STEPS = 20_000_000
"""Of all names together, where links make them long: some seconds."""
_NOT_NAMES = frozenset({b"", b".", b".."})
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_NO_CHILDREN: dict[bytes, Node] = {}


@dataclass(slots=True, eq=False)
class Node:
    """One inode. Directories have children. `block`, `slot`, `number`, `links` and `parent` are the writer's.

    `block` is where its content starts in the image, in blocks.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    block: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    children: dict[bytes, Node] = field(default_factory=lambda: _NO_CHILDREN)
    slot: int = 0
    number: int = 0
    links: int = 0
    parent: Node | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it can have children."""
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_whiteout(self) -> bool:
        """Whether it hides a name of the layers below."""
        return stat.S_ISCHR(self.mode) and self.device == (0, 0)


class Index:
    """The tree of a layer as its members arrive."""

    def __init__(self) -> None:
        self.root = _implied_directory(above=None)
        self._directories = self._steps = 0
        self._last: tuple[bytes, Node] = (b"", self.root)
        """The directory of the last member: the next is mostly in the same. Only while no name that led there has changed since."""

    def add(self, entry: tar.Entry) -> Node | None:
        """Put *entry* into the tree; give the node to fill when it is a regular file with content. Raises InvalidLayer."""
        head, _, name = entry.path.rpartition(b"/")
        if head != self._last[0] or not head or name in _NOT_NAMES or len(name) > MAX_NAME_BYTES:
            parts = _split(entry.path)
            if not parts:
                self._set_directory(self.root, entry)
                return None
            parent, name = self._directory(parts[:-1]), parts[-1]
            self._last = (head if entry.path.endswith(name) else b"", parent)
        else:
            parent = self._last[1]
        if name.startswith(WHITEOUT):
            self._last = (b"", self.root)
            self._hide(parent, name, entry)
            return None
        if entry.is_hardlink:
            self._last = (b"", self.root)
            self._link(parent, name, entry)
            return None
        return self._put(parent, name, entry)

    def _put(self, parent: Node, name: bytes, entry: tar.Entry) -> Node | None:
        old = parent.children.get(name)
        if old is not None:
            self._last = (b"", self.root)
        kind = entry.mode & 0o170000
        if kind == stat.S_IFDIR:
            if old is None or not old.is_directory:
                parent.children[name] = old = _implied_directory(above=old)
            self._set_directory(old, entry)
            return None
        if kind in _DEVICES and entry.device == (0, 0):
            return None  # it would be a whiteout, which only a name can make
        node = Node(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, 0, entry.target, entry.device, entry.xattrs, _NO_CHILDREN)
        parent.children[name] = node
        return node if kind == stat.S_IFREG and entry.size else None

    def _set_directory(self, node: Node, entry: tar.Entry) -> None:
        if not stat.S_ISDIR(entry.mode):
            raise InvalidLayer("the root of the layer is no directory")
        opaque = tuple(pair for pair in node.xattrs if pair == OPAQUE_XATTR)
        node.mode, node.uid, node.gid, node.mtime_ns = entry.mode, entry.uid, entry.gid, entry.mtime_ns
        node.xattrs = (*entry.xattrs, *opaque)

    def _hide(self, parent: Node, name: bytes, entry: tar.Entry) -> None:
        if name == OPAQUE:
            if OPAQUE_XATTR not in parent.xattrs:
                parent.xattrs = (*parent.xattrs, OPAQUE_XATTR)
            return
        if name.startswith(AUFS):
            return  # aufs' own bookkeeping
        hidden = name[len(WHITEOUT) :]
        if hidden in {b"", b".", b".."}:
            raise InvalidLayer(f"the whiteout {name!r} names nothing")
        existing = parent.children.get(hidden)
        if existing is None:
            parent.children[hidden] = Node(mode=stat.S_IFCHR, mtime_ns=entry.mtime_ns)
        elif existing.is_directory and OPAQUE_XATTR not in existing.xattrs:
            existing.xattrs = (*existing.xattrs, OPAQUE_XATTR)

    def _link(self, parent: Node, name: bytes, entry: tar.Entry) -> None:
        parts = _split(entry.target)
        holder = self._find_directory(parts[:-1]) if parts else None
        node = holder.children.get(parts[-1]) if holder is not None else None
        if node is None or node.is_directory or node.is_whiteout:
            raise InvalidLayer(f"the hard link {entry.path[:80]!r} points to nothing in its layer")
        parent.children[name] = node

    def _directory(self, parts: list[bytes]) -> Node:
        found = self._walk(parts, make=True)
        assert found is not None
        return found

    def _find_directory(self, parts: list[bytes]) -> Node | None:
        return self._walk(parts, make=False)

    def _walk(self, parts: list[bytes], *, make: bool) -> Node | None:
        """Find the directory at *parts*, following the layer's own links inside its root."""
        path, left, followed = [self.root], list(reversed(parts)), 0
        while left:
            part = left.pop()
            self._steps += 1
            if part == b"..":
                path = path[:-1] or path
                continue
            child = path[-1].children.get(part)
            if child is not None and stat.S_ISLNK(child.mode):
                followed += 1
                if followed > MAX_LINKS:
                    raise InvalidLayer("links in the layer lead in circles")
                if self._steps > MAX_STEPS:
                    raise InvalidLayer(f"the layer's names take more than {MAX_STEPS} steps to follow")
                path = [self.root] if child.target.startswith(b"/") else path
                left.extend(reversed([piece for piece in child.target.split(b"/") if piece not in {b"", b"."}]))
                if len(left) > MAX_DEPTH:
                    raise InvalidLayer("a path is too deep")
                continue
            if child is None or not child.is_directory:
                if not make:
                    return None
                if child is not None and not child.is_whiteout:
                    raise InvalidLayer(f"{part!r} is no directory, and something is put below it")
                self._directories += 1
                if self._directories > tar.MAX_ENTRIES:
                    raise InvalidLayer(f"the layer's paths imply more than {tar.MAX_ENTRIES} directories")
                child = path[-1].children[part] = _implied_directory(above=child)
            path.append(child)
        return path[-1]


def _implied_directory(*, above: Node | None) -> Node:
    """Make a directory in the place of *above*, which hid what the layers below have there: so it starts empty."""
    xattrs = () if above is None else (OPAQUE_XATTR,)
    return Node(mode=stat.S_IFDIR | 0o755, xattrs=xattrs, children={})


def _split(path: bytes) -> list[bytes]:
    """Give the parts of a member's path: relative to the root whatever it says; `..` is refused."""
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise InvalidLayer(f"the path {path[:80]!r} goes up with '..'")
    if len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME_BYTES for part in parts):
        raise InvalidLayer(f"the path {path[:80]!r} is too deep, or a name in it too long")
    return parts
