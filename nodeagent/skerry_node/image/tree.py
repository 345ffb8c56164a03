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


@dataclass(slots=True, eq=False)
class Node:
    """One inode. `block` is where its content starts in the image, in blocks. Directories have children."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    block: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    links: int = 1
    children: dict[bytes, Node] = field(default_factory=dict)
    is_implied: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether it can have children."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it hides a name of the layers below."""
        return stat.S_ISCHR(self.mode) and self.device == (0, 0)


class Index:
    """The tree of a layer as its members arrive."""

    def __init__(self) -> None:
        self.root = _implied_directory()

    def add(self, entry: tar.Entry) -> Node | None:
        """Put *entry* into the tree; returns the node to fill when it is a regular file with content. Raises InvalidLayer."""
        parts = _split(entry.path)
        if not parts:
            self._set_directory(self.root, entry)
            return None
        parent = self._directory(parts[:-1])
        name = parts[-1]
        if name.startswith(WHITEOUT):
            self._hide(parent, name, entry)
            return None
        if entry.is_hardlink:
            self._link(parent, name, entry)
            return None
        return self._put(parent, name, entry)

    def _put(self, parent: Node, name: bytes, entry: tar.Entry) -> Node | None:
        old = parent.children.get(name)
        if stat.S_ISDIR(entry.mode):
            if old is None or not old.is_directory:
                self._drop(parent, name)
                new = _implied_directory()
                if old is not None and old.is_whiteout:
                    new.xattrs = (OPAQUE_XATTR,)  # the whiteout hid what was below; the new directory starts empty
                parent.children[name] = old = new
            self._set_directory(old, entry)
            return None
        is_device = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
        if is_device and entry.device == (0, 0):
            return None  # it would be a whiteout, which only a name can make
        self._drop(parent, name)
        node = Node(
            mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=entry.mtime_ns, size=entry.size,
            target=entry.target, device=entry.device, xattrs=entry.xattrs,
        )  # fmt: skip
        parent.children[name] = node
        return node if stat.S_ISREG(entry.mode) and entry.size else None

    def _set_directory(self, node: Node, entry: tar.Entry) -> None:
        if not stat.S_ISDIR(entry.mode):
            raise InvalidLayer("the root of the layer is no directory")
        opaque = tuple(pair for pair in node.xattrs if pair == OPAQUE_XATTR)
        node.mode, node.uid, node.gid, node.mtime_ns = entry.mode, entry.uid, entry.gid, entry.mtime_ns
        node.xattrs = (*entry.xattrs, *opaque)
        node.is_implied = False

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
        if parent.children.get(name) is node:
            return
        self._drop(parent, name)
        node.links += 1
        parent.children[name] = node

    def _drop(self, parent: Node, name: bytes) -> None:
        old = parent.children.pop(name, None)
        if old is not None:
            old.links -= 1

    def _directory(self, parts: list[bytes]) -> Node:
        found = self._walk(parts, make=True)
        assert found is not None
        return found

    def _find_directory(self, parts: list[bytes]) -> Node | None:
        return self._walk(parts, make=False)

    def _walk(self, parts: list[bytes], *, make: bool) -> Node | None:
        """The directory at *parts*, following the layer's own links inside its root."""
        path, left, followed = [self.root], list(reversed(parts)), 0
        while left:
            part = left.pop()
            if part == b"..":
                path = path[:-1] or path
                continue
            child = path[-1].children.get(part)
            if child is not None and stat.S_ISLNK(child.mode):
                followed += 1
                if followed > MAX_LINKS:
                    raise InvalidLayer("links in the layer lead in circles")
                path = [self.root] if child.target.startswith(b"/") else path
                left.extend(reversed([piece for piece in child.target.split(b"/") if piece not in {b"", b"."}]))
                if len(left) > MAX_DEPTH:
                    raise InvalidLayer("a path is too deep")
                continue
            if child is None or not child.is_directory:
                if not make:
                    return None
                self._drop(path[-1], part)
                child = path[-1].children[part] = _implied_directory()
            path.append(child)
        return path[-1]


def _implied_directory() -> Node:
    return Node(mode=stat.S_IFDIR | 0o755, is_implied=True)


def _split(path: bytes) -> list[bytes]:
    """The parts of a member's path: relative to the root whatever it says; `..` is refused."""
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise InvalidLayer(f"the path {path[:80]!r} goes up with '..'")
    if len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME_BYTES for part in parts):
        raise InvalidLayer(f"the path {path[:80]!r} is too deep, or a name in it too long")
    return parts
