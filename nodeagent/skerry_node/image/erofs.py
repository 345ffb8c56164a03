"""A writer of uncompressed EROFS images. File content is appended as it comes; directories and inodes follow; the superblock is last.

Layout: include/linux/erofs_fs.h (fs/erofs/erofs_fs.h). Blocks of 4,096 bytes; extended inodes of 64 bytes; directories as blocks of sorted
entries; symlinks inline behind their inode; xattrs inline. The output is a function of the tree and its content alone.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator

from skerry_node.image.errors import InvalidLayer
from skerry_node.image.tree import Node

BLOCK = 4096
_MAGIC, _SUPERBLOCK_OFFSET, _SLOT, _INODE_BYTES = 0xE0F5E1E2, 1024, 32, 64
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23s")
_INODE = struct.Struct("<HHHHQIIIIQII16s")
_DIRENT = struct.Struct("<QHBB")
_XATTR_HEADER, _XATTR_ENTRY = struct.Struct("<IB7x"), struct.Struct("<BBH")
_PLAIN, _INLINE = 0, 2
_COMPAT_MTIME = 2
_FILE_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}
_XATTR_PREFIXES = ((b"user.", 1), (b"trusted.", 4))
_MAX_BLOCKS = (1 << 32) - 1


class Writer:
    """Writes one image into an empty file at *fd*. Content first, then `finish`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._next_block = 1  # block 0 holds the superblock

    def append(self, pieces: Iterable[bytes]) -> int:
        """Append one file's content; returns its first block."""
        first, offset = self._next_block, self._next_block * BLOCK
        for piece in pieces:
            view = memoryview(piece)
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        self._next_block = -(-offset // BLOCK)
        if self._next_block > _MAX_BLOCKS:
            raise InvalidLayer("the layer is larger than 16 TiB")
        return first

    def finish(self, root: Node) -> int:
        """Write directories, inodes and superblock; returns the image's size in bytes, always whole blocks."""
        nodes = list(_walk(root))
        numbers, meta_bytes = _place(nodes)
        self._write_directories(root, nodes, numbers)
        meta_block = self._next_block
        inode_numbers = {id(node): place + 1 for place, node in enumerate(nodes)}
        buffer, start = bytearray(), 0
        for node in nodes:
            position = numbers[id(node)] * _SLOT
            buffer += bytes(position - start - len(buffer))
            buffer += _render_inode(node, inode_numbers[id(node)])
            if len(buffer) > 1 << 20:
                os.pwrite(self._fd, buffer, meta_block * BLOCK + start)
                start += len(buffer)
                buffer = bytearray()
        os.pwrite(self._fd, buffer, meta_block * BLOCK + start)
        blocks = meta_block + -(-meta_bytes // BLOCK)
        os.ftruncate(self._fd, blocks * BLOCK)
        superblock = _SUPERBLOCK.pack(
            _MAGIC, 0, _COMPAT_MTIME, 12, 0, numbers[id(root)], len(nodes), 0, 0, blocks, meta_block, 0,
            bytes(16), bytes(16), 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(23),
        )  # fmt: skip
        os.pwrite(self._fd, superblock, _SUPERBLOCK_OFFSET)
        return blocks * BLOCK

    def _write_directories(self, root: Node, nodes: list[Node], numbers: dict[int, int]) -> None:
        parents = {id(root): root}
        for node in nodes:
            for child in node.children.values():
                if child.is_directory:
                    parents[id(child)] = node
        for node in nodes:
            if node.is_directory:
                entries = [(b".", node), (b"..", parents[id(node)]), *node.children.items()]
                content = _render_directory(entries, numbers)
                node.size = len(content)
                node.block = self.append([content])


def _walk(root: Node) -> Iterator[Node]:
    """Every inode once, parents before children, names in order: the order of inodes in the image."""
    seen, queue = {id(root)}, [root]
    for node in queue:
        yield node
        for name in sorted(node.children):
            child = node.children[name]
            if id(child) not in seen:
                seen.add(id(child))
                queue.append(child)


def _place(nodes: list[Node]) -> tuple[dict[int, int], int]:
    """The slot of each inode in the metadata area, and the area's size. An inline tail may not cross a block."""
    numbers: dict[int, int] = {}
    position = 0
    for node in nodes:
        head = _INODE_BYTES + _xattr_bytes(node)
        tail = len(node.target)
        if tail and (position + head) % BLOCK + tail > BLOCK:
            position = -(-(position + head) // BLOCK) * BLOCK - head
            position = -(-position // _SLOT) * _SLOT
            if (position + head) % BLOCK + tail > BLOCK:
                position = -(-position // BLOCK) * BLOCK
        numbers[id(node)] = position // _SLOT
        position = -(-(position + head + tail) // _SLOT) * _SLOT
    return numbers, position


def _render_inode(node: Node, number: int) -> bytes:
    layout = _INLINE if node.target else _PLAIN
    xattrs = _render_xattrs(node)
    if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        where = _encode_device(*node.device)
    else:
        where = node.block if not node.target else 0xFFFFFFFF
    links = 2 + sum(child.is_directory for child in node.children.values()) if node.is_directory else node.links
    seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
    size = len(node.target) if node.target else node.size
    inode = _INODE.pack(
        1 | layout << 1, (len(xattrs) - _XATTR_HEADER.size) // 4 + 1 if xattrs else 0, node.mode, 0, size, where, number,
        node.uid, node.gid, seconds, nanoseconds, links, bytes(16),
    )  # fmt: skip
    return inode + xattrs + node.target


def _xattr_bytes(node: Node) -> int:
    if not node.xattrs:
        return 0
    return _XATTR_HEADER.size + sum(len(_render_xattr(name, value)) for name, value in node.xattrs)


def _render_xattrs(node: Node) -> bytes:
    if not node.xattrs:
        return b""
    return _XATTR_HEADER.pack(0, 0) + b"".join(_render_xattr(name, value) for name, value in sorted(node.xattrs))


def _render_xattr(name: bytes, value: bytes) -> bytes:
    for prefix, index in _XATTR_PREFIXES:
        if name.startswith(prefix):
            short = name[len(prefix) :]
            body = _XATTR_ENTRY.pack(len(short), index, len(value)) + short + value
            return body + bytes(-len(body) % 4)
    raise InvalidLayer(f"an extended attribute {name!r}")


def _render_directory(entries: list[tuple[bytes, Node]], numbers: dict[int, int]) -> bytes:
    """Blocks of entries in byte order, names behind them; all but the last block are full."""
    out, block, used = bytearray(), list[tuple[bytes, Node]](), 0
    for name, node in sorted(entries, key=lambda entry: entry[0]):
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            out += _render_block(block, numbers).ljust(BLOCK, b"\0")
            block, used = [], 0
        block.append((name, node))
        used += need
    return bytes(out + _render_block(block, numbers))


def _render_block(entries: list[tuple[bytes, Node]], numbers: dict[int, int]) -> bytes:
    offset = _DIRENT.size * len(entries)
    heads, names = bytearray(), bytearray()
    for name, node in entries:
        heads += _DIRENT.pack(numbers[id(node)], offset + len(names), _FILE_TYPES[stat.S_IFMT(node.mode)], 0)
        names += name
    return bytes(heads + names)


def _encode_device(major: int, minor: int) -> int:
    """The kernel's new_encode_dev (linux/kdev_t.h)."""
    if major >= 1 << 12 or minor >= 1 << 20:
        raise InvalidLayer(f"a device {major}:{minor}")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
