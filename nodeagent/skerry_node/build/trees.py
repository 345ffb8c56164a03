"""Trees to copy from and into, as values in memory: names are resolved here, inside the tree's root, and never by the host's kernel.

So no link, `..` or magic link of a context or of an image has anything to act on: this is openat2's RESOLVE_IN_ROOT without a filesystem.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from skerry_node.build.errors import BuildError

MAX_LINKS, MAX_PARTS = 40, 512
"""As the kernel follows 40 links (path_resolution(7)), and as deep as a layer may be."""


class Node(Protocol):
    """One inode. *identity* is the same for two names of one file; None where there is one name only."""

    @property
    def mode(self) -> int: ...  # noqa: D102
    @property
    def uid(self) -> int: ...  # noqa: D102
    @property
    def gid(self) -> int: ...  # noqa: D102
    @property
    def mtime_ns(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def target(self) -> bytes: ...  # noqa: D102
    @property
    def device(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]: ...  # noqa: D102
    @property
    def identity(self) -> object | None: ...  # noqa: D102

    def children(self) -> Mapping[bytes, Node]:
        """The names of a directory; empty for all else."""
        ...

    def read(self) -> Iterator[bytes]:
        """The content of a regular file."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: *parts* from the root, without links; *node* is what is there, None where nothing is."""

    parts: tuple[bytes, ...]
    node: Node | None


class LinksLoop(BuildError):
    """Links lead in circles."""


def split(path: bytes) -> list[bytes]:
    """The parts of *path*, `..` among them."""
    return [part for part in path.split(b"/") if part not in {b"", b"."}]


def resolve(root: Node, path: bytes, *, follow_last: bool = True) -> Place:
    """Where *path* leads inside *root*: links followed, `..` held at the root; what is missing is taken as it is written. Raises BuildError."""
    trail: list[tuple[bytes, Node | None]] = []
    left = split(path)[::-1]
    links = 0
    while left:
        if len(trail) + len(left) > MAX_PARTS:
            raise BuildError(f"the path {path[:80]!r} is too deep")
        part = left.pop()
        if part == b"..":
            del trail[-1:]
            continue
        above = trail[-1][1] if trail else root
        node = above.children().get(part) if above is not None else None
        if node is not None and stat.S_ISLNK(node.mode) and (left or follow_last):
            links += 1
            if links > MAX_LINKS:
                raise LinksLoop(f"the links in {path[:80]!r} lead in circles")
            if node.target.startswith(b"/"):
                trail = []
            left += split(node.target)[::-1]
            continue
        trail.append((part, node))
    return Place(parts=tuple(name for name, _ in trail), node=trail[-1][1] if trail else root)


def is_directory(node: Node | None) -> bool:
    """Whether there is a directory."""
    return node is not None and stat.S_ISDIR(node.mode)


def read_small(node: Node, limit: int) -> bytes:
    """The content of a file of at most *limit* bytes; empty for one that is larger or no regular file."""
    if not stat.S_ISREG(node.mode) or node.size > limit:
        return b""
    return b"".join(node.read())
