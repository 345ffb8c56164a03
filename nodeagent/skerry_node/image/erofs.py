"""A writer of uncompressed EROFS images: content as it comes, then directories and inodes, the superblock last.

Layout: fs/erofs/erofs_fs.h. Blocks of 4,096 bytes; extended inodes of 64 bytes; directories as blocks of sorted entries; short
symlinks inline behind their inode; xattrs inline. The output is a function of the tree and its content alone.
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
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_MAX_INLINE_BYTES = BLOCK // 2
"""A longer symlink target gets a block of its own: behind an inode with xattrs it might fit into no block."""
_XATTR_PREFIXES = ((b"user.", 1), (b"trusted.", 4))
_MAX_BLOCKS, _MASK = (1 << 32) - 1, (1 << 64) - 1


class Writer:
    """Writes one image into an empty file at *fd*. Content first, then `finish`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._next_block = 1  # block 0 holds the superblock

    def append(self, pieces: Iterable[bytes | int]) -> int:
        """Append one file's content, a number being a hole of so many bytes; returns its first block."""
        first, offset = self._next_block, self._next_block * BLOCK
        for piece in pieces:
            if isinstance(piece, int):
                offset += piece
                continue
            _write(self._fd, piece, offset)
            offset += len(piece)
        self._next_block = -(-offset // BLOCK)
        if self._next_block > _MAX_BLOCKS:
            raise InvalidLayer("the layer is larger than 16 TiB")
        return first

    def finish(self, root: Node) -> int:
        """Write directories, inodes and superblock; returns the image's size in bytes, always whole blocks."""
        nodes = list(_walk(root))
        meta_bytes = _place(nodes)
        for node in nodes:
            if len(node.target) > _MAX_INLINE_BYTES:
                node.block = self.append([node.target])
        self._write_directories(root, nodes)
        meta_block = self._next_block
        self._write_inodes(nodes, meta_block * BLOCK)
        blocks = meta_block + -(-(meta_bytes + _XATTR_HEADER.size) // BLOCK)  # fsck.erofs 1.5 reads so far past the last inode
        os.ftruncate(self._fd, blocks * BLOCK)
        superblock = _SUPERBLOCK.pack(
            _MAGIC, 0, _COMPAT_MTIME, 12, 0, root.slot, len(nodes), 0, 0, blocks, meta_block, 0,
            bytes(16), bytes(16), 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(23),
        )  # fmt: skip
        _write(self._fd, superblock, _SUPERBLOCK_OFFSET)
        return blocks * BLOCK

    def _write_inodes(self, nodes: list[Node], offset: int) -> None:
        buffer, start = bytearray(), 0
        for node in nodes:
            buffer += bytes(node.slot * _SLOT - start - len(buffer))
            buffer += _render_inode(node)
            if len(buffer) > 1 << 20:
                _write(self._fd, buffer, offset + start)
                start += len(buffer)
                buffer = bytearray()
        _write(self._fd, buffer, offset + start)

    def _write_directories(self, root: Node, nodes: list[Node]) -> None:
        parents = {id(root): root}
        for node in nodes:
            for child in node.children.values():
                if child.is_directory:
                    parents[id(child)] = node
        for node in nodes:
            if node.is_directory:
                content = _render_directory([(b".", node), (b"..", parents[id(node)]), *node.children.items()])
                node.size = len(content)
                node.block = self.append([content])


def _write(fd: int, content: bytes | bytearray, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _walk(root: Node) -> Iterator[Node]:
    """Give every inode once, parents before children, names in order, and number them and count their links."""
    root.number, root.links = 1, 1
    queue, count = [root], 1
    for node in queue:
        yield node
        for name in sorted(node.children):
            child = node.children[name]
            child.links += 1
            if child.number == 0:
                count += 1
                child.number = count
                queue.append(child)


def _place(nodes: list[Node]) -> int:
    """Give each inode its slot in the metadata area; returns the area's size. An inline tail may not cross a block."""
    position = 0
    for node in nodes:
        head, tail = _INODE_BYTES + _xattr_bytes(node), len(_inline(node))
        if tail and (position + head) % BLOCK + tail > BLOCK:
            position = -(-(position + head) // BLOCK) * BLOCK - head
            position = -(-position // _SLOT) * _SLOT
        node.slot = position // _SLOT
        position = -(-(position + head + tail) // _SLOT) * _SLOT
    return position


def _inline(node: Node) -> bytes:
    return node.target if len(node.target) <= _MAX_INLINE_BYTES else b""


def _render_inode(node: Node) -> bytes:
    tail, xattrs = _inline(node), _render_xattrs(node)
    where = 0xFFFFFFFF if tail else node.block
    if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        where = _encode_device(*node.device)
    links = node.links
    if node.is_directory:
        links = 2 + sum(child.is_directory for child in node.children.values())
    seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
    inode = _INODE.pack(
        1 | (_INLINE if tail else _PLAIN) << 1, (len(xattrs) - _XATTR_HEADER.size) // 4 + 1 if xattrs else 0, node.mode, 0,
        len(node.target) or node.size, where, node.number, node.uid, node.gid, seconds & _MASK, nanoseconds, links, bytes(16),
    )  # fmt: skip
    return inode + xattrs + tail


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


def _render_directory(entries: list[tuple[bytes, Node]]) -> bytes:
    """Give blocks of entries in byte order, names behind them; all but the last are padded to a whole block."""
    out, block, used = bytearray(), list[tuple[bytes, Node]](), 0
    for name, node in sorted(entries, key=lambda entry: entry[0]):
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            out += _render_block(block).ljust(BLOCK, b"\0")
            block, used = [], 0
        block.append((name, node))
        used += need
    return bytes(out + _render_block(block))


def _render_block(entries: list[tuple[bytes, Node]]) -> bytes:
    offset = _DIRENT.size * len(entries)
    heads, names = bytearray(), bytearray()
    for name, node in entries:
        heads += _DIRENT.pack(node.slot, offset + len(names), _FILE_TYPES[stat.S_IFMT(node.mode)], 0)
        names += name
    return bytes(heads + names)


def _encode_device(major: int, minor: int) -> int:
    """Encode as the kernel's new_encode_dev does (linux/kdev_t.h)."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
