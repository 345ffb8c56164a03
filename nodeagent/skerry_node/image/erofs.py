"""A writer of uncompressed EROFS images: content as it comes, then directories and inodes, the superblock last.

Layout: fs/erofs/erofs_fs.h. Blocks of 4,096 bytes; extended inodes of 64 bytes; directories as blocks of sorted entries; short
symlinks inline behind their inode; xattrs inline, or shared by number. The output is a function of the tree and its content alone.
"""

from __future__ import annotations

import operator
import stat
import struct
from collections.abc import Iterable, Iterator

from skerry_node.image import attributes, sealing
from skerry_node.image.errors import InvalidLayer
from skerry_node.image.tree import Node

BLOCK = sealing.BLOCK
_ZEROS = bytes(BLOCK)
_MAGIC, _SUPERBLOCK_OFFSET, _SLOT, _INODE_BYTES = 0xE0F5E1E2, 1024, 32, 64
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23s")
_INODE = struct.Struct("<HHHHQIIIIQII16s")
_DIRENT = struct.Struct("<QHBB")
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
_WRITE_BYTES = 256 << 10
_MAX_BLOCKS, _MASK = (1 << 32) - 1, (1 << 64) - 1


class Writer:
    """Writes one image into *sink*. Content first, then `finish`."""

    def __init__(self, sink: sealing.Sink) -> None:
        self._sink = sink
        self._next_block = 1  # block 0 holds the superblock
        self._parts: list[bytes | memoryview] = []
        self._part_bytes = 0

    def append(self, pieces: Iterable[bytes | memoryview | int]) -> int:
        """Append one file's content, a number being a hole of so many bytes; returns its first block."""
        first, length = self._next_block, 0
        for piece in pieces:
            if isinstance(piece, int):
                self._flush()
                self._sink.skip(piece)
                length += piece
                continue
            self._put(piece)
            length += len(piece)
        if length % BLOCK:
            self._put(_ZEROS[length % BLOCK :])
        self._next_block += -(-length // BLOCK)
        if self._next_block > _MAX_BLOCKS:
            raise InvalidLayer("the layer is larger than 16 TiB")
        return first

    def finish(self, root: Node) -> sealing.Sealed:
        """Write shared attributes, directories, inodes and superblock."""
        nodes = list(_walk(root))
        shared = attributes.share(node.xattrs for node in nodes)
        shared_block = self.append([shared.table]) if shared.table else 0
        bodies = {id(node): shared.render(node.xattrs) for node in nodes if node.xattrs}
        meta_bytes = _place(nodes, bodies)
        for node in nodes:
            if len(node.target) > _MAX_INLINE_BYTES:
                node.block = self.append([node.target])
        self._write_directories(root, nodes)
        meta_block = self._next_block
        self._write_inodes(nodes, bodies, meta_bytes + attributes.HEADER_BYTES)  # fsck.erofs 1.5 reads so far past the last inode
        superblock = _SUPERBLOCK.pack(
            _MAGIC, 0, _COMPAT_MTIME, 12, 0, root.slot, len(nodes), 0, 0, self._next_block, meta_block, shared_block,
            bytes(16), bytes(16), 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(23),
        )  # fmt: skip
        self._flush()
        return self._sink.finish((bytes(_SUPERBLOCK_OFFSET) + superblock).ljust(BLOCK, b"\0"))

    def _put(self, piece: bytes | memoryview) -> None:
        self._parts.append(piece)
        self._part_bytes += len(piece)
        if self._part_bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._parts:
            self._sink.write(self._parts)
            self._parts, self._part_bytes = [], 0

    def _write_inodes(self, nodes: list[Node], bodies: dict[int, bytes], length: int) -> None:
        def render() -> Iterator[bytes]:
            position = 0
            for node in nodes:
                inode = _render_inode(node, bodies.get(id(node), b"") if node.xattrs else b"")
                gap = node.slot * _SLOT - position
                if gap:
                    yield _ZEROS[:gap]
                yield inode
                position += gap + len(inode)
            yield _ZEROS[: length - position]

        self.append(render())

    def _write_directories(self, root: Node, nodes: list[Node]) -> None:
        root.parent = root
        for node in nodes:
            if node.is_directory:
                for child in node.children.values():
                    if child.is_directory:
                        child.parent = node
                content = _render_directory([(b".", node), (b"..", node.parent or root), *node.children.items()])
                node.size = len(content)
                node.block = self.append([content])


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


def _place(nodes: list[Node], bodies: dict[int, bytes]) -> int:
    """Give each inode its slot in the metadata area; returns the area's size. An inline tail may not cross a block."""
    position = 0
    for node in nodes:
        head = _INODE_BYTES
        if node.xattrs:
            head += len(bodies[id(node)])
        tail = len(node.target)
        if tail > _MAX_INLINE_BYTES:
            tail = 0
        if tail and (position + head) % BLOCK + tail > BLOCK:
            position = -(-(position + head) // BLOCK) * BLOCK - head
            position = -(-position // _SLOT) * _SLOT
        node.slot = position // _SLOT
        position = -(-(position + head + tail) // _SLOT) * _SLOT
    return position


def _render_inode(node: Node, xattrs: bytes) -> bytes:
    mode, target = node.mode, node.target
    tail = target if len(target) <= _MAX_INLINE_BYTES else b""
    where = 0xFFFFFFFF if tail else node.block
    if node.device != (0, 0):
        where = _encode_device(*node.device)
    links = node.links
    if node.is_directory:
        links = 2 + sum(child.is_directory for child in node.children.values())
    seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
    inode = _INODE.pack(
        1 | (_INLINE if tail else _PLAIN) << 1, (len(xattrs) - attributes.HEADER_BYTES) // 4 + 1 if xattrs else 0, mode, 0,
        len(target) or node.size, where, node.number, node.uid, node.gid, seconds & _MASK, nanoseconds, links, bytes(16),
    )  # fmt: skip
    return inode + xattrs + tail


def _render_directory(entries: list[tuple[bytes, Node]]) -> bytes:
    """Give blocks of entries in byte order, names behind them; all but the last are padded to a whole block."""
    out, block, used = bytearray(), list[tuple[bytes, Node]](), 0
    for name, node in sorted(entries, key=operator.itemgetter(0)):
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
        heads += _DIRENT.pack(node.slot, offset + len(names), _FILE_TYPES[node.mode & 0o170000], 0)
        names += name
    return bytes(heads + names)


def _encode_device(major: int, minor: int) -> int:
    """Encode as the kernel's new_encode_dev does (linux/kdev_t.h)."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
