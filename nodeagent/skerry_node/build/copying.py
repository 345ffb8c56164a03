"""COPY and ADD: from nodes of a tree to the members of a new layer. Everything is resolved in memory, inside the context and inside the root.

How a path is read follows Docker: a target that ends with a slash, is a directory, or takes several sources is a directory; a source that is a
directory gives its content, and nothing of itself; links in the target's path are followed inside the root.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from skerry_node.build import trees
from skerry_node.build.errors import BuildError
from skerry_node.image import tar, tarwriting, tree

_DIRECTORY = stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every entry: *owner* (None: as it is), *mode* bits (None: as they are), times in nanoseconds.

    *strips_ids*: set-id bits of files go, as Docker has it for the build context.
    """

    owner: tuple[int, int] | None
    mode: int | None
    now_ns: int
    clamp_ns: int | None
    strips_ids: bool = False

    def time(self, time_ns: int) -> int:
        """The time that is written."""
        return time_ns if self.clamp_ns is None else min(time_ns, self.clamp_ns)


@dataclass(frozen=True, slots=True)
class _Item:
    """One member to be: *node* has its content and children; *is_new* says that it is no mere directory of the root on the way."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    node: trees.Node | None
    is_new: bool


@dataclass(slots=True)
class Copying:
    """The layer of one instruction, over *root*. `add` any number of sources, then `write`."""

    root: trees.Node
    rules: Rules
    _items: dict[tuple[bytes, ...], _Item] = field(default_factory=dict)
    _names: dict[tuple[bytes, ...], list[bytes]] = field(default_factory=dict)

    def add(self, name: bytes, node: trees.Node, target: bytes, *, is_directory: bool) -> None:
        """Copy *node*, called *name*, to *target*. Raises BuildError."""
        place = trees.resolve(self.root, target)
        if trees.is_directory(node):
            self._check_can_be_directory(place)
            self._add_parents(place.parts)
            self._add_children(place.parts, node)
            return
        if is_directory or trees.is_directory(place.node) or self._is_directory(place.parts):
            self._check_can_be_directory(place)
            place = trees.resolve(self.root, b"/".join((*place.parts, name)))
            if trees.is_directory(place.node):
                raise BuildError(f"cannot copy the file {name[:80]!r} over the directory {_show(place.parts)}")
        if not place.parts:
            raise BuildError(f"cannot copy the file {name[:80]!r} over the root")
        self._add_parents(place.parts[:-1])
        self._put(place.parts, node, mode=node.mode)

    def add_directory(self, target: bytes) -> bool:
        """Have the directory *target*, as WORKDIR does; whether it was missing."""
        place = trees.resolve(self.root, target)
        self._check_can_be_directory(place)
        self._add_parents(place.parts)
        return place.node is None

    def digest(self) -> str:
        """What the copies come to, times aside: two that are equal make layers that differ in nothing that an instruction says."""
        whole = hashlib.sha256()
        for path, item in self._sorted():
            head = (path, item.mode, item.uid, item.gid, item.is_new, item.node.target if item.node is not None else b"")
            whole.update(repr(head).encode())
            if item.node is not None and stat.S_ISREG(item.mode):
                content = hashlib.sha256()
                for piece in item.node.read():
                    content.update(piece)
                whole.update(content.digest())
        return whole.hexdigest()

    def write(self, out: tarwriting.Output) -> int:
        """Write the layer; returns the number of members. Raises OSError, errors of the image room for what is beyond a layer's bounds."""
        writer = tarwriting.Writer(out)
        first_names: dict[object, bytes] = {}
        for path, item in self._sorted():
            entry = self._entry(path, item)
            identity = item.node.identity if item.node is not None else None
            if identity is not None and first_names.setdefault(identity, entry.path) != entry.path:
                writer.add(entry._replace(is_hardlink=True, target=first_names[identity], size=0, xattrs=()))
                continue
            has_content = item.node is not None and stat.S_ISREG(item.mode) and entry.size
            writer.add(entry, tarwriting.Content(_exactly(item.node, entry.size)) if has_content and item.node is not None else None)
        writer.finish()
        return len(self._items)

    def _sorted(self) -> Iterator[tuple[tuple[bytes, ...], _Item]]:
        """Parents before children, names in byte order. Sorted by directory: one sort of everything would keep the interpreter to itself."""
        waiting: list[tuple[bytes, ...]] = [()]
        while waiting:
            path = waiting.pop()
            if path:
                yield path, self._items[path]
            waiting += [(*path, name) for name in sorted(self._names.get(path, ()), reverse=True)]

    def _entry(self, path: tuple[bytes, ...], item: _Item) -> tar.Entry:
        joined = b"/".join(path)
        node = item.node
        return tar.Entry(
            path=joined + b"/" if stat.S_ISDIR(item.mode) else joined, mode=item.mode, uid=item.uid, gid=item.gid, mtime_ns=item.mtime_ns,
            size=node.size if node is not None and stat.S_ISREG(item.mode) else 0, target=node.target if node is not None else b"",
            device=node.device if node is not None else (0, 0), xattrs=node.xattrs if node is not None else (),
        )  # fmt: skip

    def _add_children(self, parts: tuple[bytes, ...], node: trees.Node) -> None:
        waiting = [(parts, node)]
        while waiting:
            above, directory = waiting.pop()
            for name, child in directory.children().items():
                path = (*above, name)
                self._check_over(path, child)
                self._put(path, child, mode=child.mode)
                if trees.is_directory(child):
                    waiting.append((path, child))

    def _check_over(self, path: tuple[bytes, ...], child: trees.Node) -> None:
        """What stands in the place of *child* must be of a kind that it may replace."""
        item = self._items.get(path)
        mode = item.mode if item is not None else None
        if mode is None:
            node = _step_down(self.root, path)
            mode = node.mode if node is not None else None
        if mode is not None and stat.S_ISDIR(mode) != trees.is_directory(child):
            kinds = ("a file", "a directory")
            raise BuildError(f"cannot copy {kinds[trees.is_directory(child)]} over {kinds[stat.S_ISDIR(mode)]} at {_show(path)}")

    def _put(self, path: tuple[bytes, ...], node: trees.Node, *, mode: int) -> None:
        if path[-1].startswith(tree.WHITEOUT):
            raise BuildError(f"{_show(path)} cannot be in a layer: names that begin with .wh. delete others there")
        if len(self._items) > tar.MAX_ENTRIES:
            raise BuildError(f"more than {tar.MAX_ENTRIES} files")
        rules = self.rules
        uid, gid = rules.owner if rules.owner is not None else (node.uid, node.gid)
        if stat.S_ISLNK(mode):
            mode = stat.S_IFLNK | 0o777  # as the kernel shows every link
        elif rules.mode is not None:
            mode = stat.S_IFMT(mode) | rules.mode
        elif rules.strips_ids and stat.S_ISREG(mode):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        self._set(path, _Item(mode, uid, gid, rules.time(node.mtime_ns), node, is_new=True))

    def _set(self, path: tuple[bytes, ...], item: _Item) -> None:
        if path not in self._items:
            self._names.setdefault(path[:-1], []).append(path[-1])
        self._items[path] = item

    def _add_parents(self, parts: tuple[bytes, ...]) -> None:
        """Directories on the way: as the root has them, or new ones."""
        for length in range(1, len(parts) + 1):
            path = parts[:length]
            item = self._items.get(path)
            if item is not None:
                if not stat.S_ISDIR(item.mode):
                    raise BuildError(f"{_show(path)} is no directory")
                continue
            node = _step_down(self.root, path)
            if node is not None:
                self._set(path, _Item(node.mode, node.uid, node.gid, node.mtime_ns, node, is_new=False))
            else:
                uid, gid = self.rules.owner or (0, 0)
                self._set(path, _Item(_DIRECTORY, uid, gid, self.rules.time(self.rules.now_ns), None, is_new=True))

    def _is_directory(self, parts: tuple[bytes, ...]) -> bool:
        item = self._items.get(parts)
        return item is not None and stat.S_ISDIR(item.mode)

    def _check_can_be_directory(self, place: trees.Place) -> None:
        if place.node is not None and not trees.is_directory(place.node):
            raise BuildError(f"{_show(place.parts)} is no directory in the image")
        for length in range(1, len(place.parts)):
            node = _step_down(self.root, place.parts[:length])
            if node is not None and not trees.is_directory(node):
                raise BuildError(f"{_show(place.parts[:length])} is no directory in the image")


def _step_down(root: trees.Node, parts: tuple[bytes, ...]) -> trees.Node | None:
    """What *parts* name, links not followed: they are a resolved place, or lie below one."""
    node: trees.Node | None = root
    for part in parts:
        node = node.children().get(part) if node is not None else None
    return node


def _exactly(node: trees.Node, size: int) -> Iterator[bytes]:
    read = 0
    for piece in node.read():
        read += len(piece)
        yield piece
    if read != size:
        raise BuildError(f"a file has {read} bytes where {size} were promised")


def _show(parts: tuple[bytes, ...]) -> str:
    return "/" + b"/".join(parts).decode("utf-8", "backslashreplace")
