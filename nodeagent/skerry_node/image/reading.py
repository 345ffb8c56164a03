"""A reader of the EROFS images that `erofs.py` writes: inodes, directories, content, without a mount. Reads what it is asked for only.

Layout: fs/erofs/erofs_fs.h, as far as our writer uses it. A layer is sealed by us, but a disk may damage it: every number is bounded.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from skerry_node.image.errors import DamagedContent

_BLOCK, _SLOT, _SUPERBLOCK_OFFSET, _MAGIC = 4096, 32, 1024, 0xE0F5E1E2
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII")
_INODE = struct.Struct("<HHHHQIIIIQII16s")
_DIRENT = struct.Struct("<QHBB")
_XATTR_HEADER_BYTES, _XATTR_ENTRY = 12, struct.Struct("<BBH")
_PLAIN, _INLINE = 0, 2
_PREFIXES = {1: b"user.", 4: b"trusted."}
_MAX_DIRECTORY_BYTES = 512 << 20
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode. *slot* is its place, and so its identity in its image. Times are nanoseconds."""

    slot: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    links: int
    device: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    layout: int
    block: int
    head_bytes: int


class Reader:
    """The image at *fd*, which stays the caller's. Every method raises DamagedContent and OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        magic, _, _, bits, _, root, _, _, _, _, meta_block, xattr_block = _SUPERBLOCK.unpack(self._pread(_SUPERBLOCK.size, _SUPERBLOCK_OFFSET))
        if magic != _MAGIC or bits != 12:
            raise DamagedContent("a layer is no EROFS image of ours")
        self._meta, self._xattrs = meta_block * _BLOCK, xattr_block * _BLOCK
        self.root = self.inode(root)

    def inode(self, slot: int) -> Inode:
        """The inode at *slot*."""
        start = self._meta + slot * _SLOT
        form, xattr_count, mode, _, size, block, _, uid, gid, seconds, nanoseconds, links, _ = _INODE.unpack(self._pread(_INODE.size, start))
        if not form & 1 or (layout := form >> 1 & 7) not in {_PLAIN, _INLINE}:
            raise DamagedContent(f"an inode of a form that is not ours: {form:#x}")
        seconds -= (seconds >> 63) << 64
        xattr_bytes = _XATTR_HEADER_BYTES + (xattr_count - 1) * 4 if xattr_count else 0
        xattrs = self._read_xattrs(start + _INODE.size, xattr_bytes) if xattr_bytes else ()
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        device = ((block >> 8) & 0xFFF, (block & 0xFF) | (block >> 12) & 0xFFF00) if is_device else (0, 0)
        return Inode(
            slot=slot, mode=mode, uid=uid, gid=gid, mtime_ns=seconds * 1_000_000_000 + nanoseconds, size=size, links=links, device=device,
            xattrs=xattrs, layout=layout, block=block, head_bytes=_INODE.size + xattr_bytes,
        )  # fmt: skip

    def read(self, inode: Inode) -> Iterator[bytes]:
        """The content of a file, a symlink or a directory, in pieces."""
        offset, left = self._content_offset(inode), inode.size
        while left:
            piece = self._pread(min(left, _PIECE_BYTES), offset)
            yield piece
            offset, left = offset + len(piece), left - len(piece)

    def list(self, inode: Inode) -> dict[bytes, int]:
        """The names of a directory, and the slots of their inodes."""
        if inode.size > _MAX_DIRECTORY_BYTES:
            raise DamagedContent(f"a directory of {inode.size} bytes")
        content = b"".join(self.read(inode))
        found: dict[bytes, int] = {}
        for start in range(0, len(content), _BLOCK):
            block = content[start : start + _BLOCK]
            heads = [_DIRENT.unpack_from(block, at) for at in range(0, _count(block) * _DIRENT.size, _DIRENT.size)]
            ends = [head[1] for head in heads[1:]] + [len(block)]
            for (slot, offset, _kind, _), end in zip(heads, ends, strict=True):
                name = block[offset:end].split(b"\0", 1)[0]
                if name not in {b".", b".."}:
                    found[name] = slot
        return found

    def _content_offset(self, inode: Inode) -> int:
        if inode.layout == _PLAIN:
            return inode.block * _BLOCK
        if inode.size > _BLOCK:
            raise DamagedContent("an inline tail longer than a block")
        return int(self._meta + inode.slot * _SLOT + inode.head_bytes)

    def _read_xattrs(self, start: int, size: int) -> tuple[tuple[bytes, bytes], ...]:
        body = self._pread(size, start)
        shared, position = body[4], _XATTR_HEADER_BYTES
        found = []
        for (number,) in struct.iter_unpack("<I", body[position : position + 4 * shared]):
            at = self._xattrs + number * 4
            name_bytes, _, value_bytes = _XATTR_ENTRY.unpack(self._pread(_XATTR_ENTRY.size, at))
            found.append(_parse_xattr(self._pread(_XATTR_ENTRY.size + name_bytes + value_bytes, at), 0)[0])
        position += 4 * shared
        while position < size:
            pair, position = _parse_xattr(body, position)
            found.append(pair)
        return tuple(sorted(found))

    def _pread(self, size: int, offset: int) -> bytes:
        content = os.pread(self._fd, size, offset)
        if len(content) != size:
            raise DamagedContent("a layer is cut short")
        return content


def _count(block: bytes) -> int:
    """Names in a directory's block: the first name stands behind all heads."""
    if len(block) < _DIRENT.size:
        raise DamagedContent("a directory is cut short")
    first: int = _DIRENT.unpack_from(block, 0)[1]
    if first % _DIRENT.size or not 0 < first <= len(block):
        raise DamagedContent("a directory is damaged")
    return first // _DIRENT.size


def _parse_xattr(body: bytes, position: int) -> tuple[tuple[bytes, bytes], int]:
    name_bytes, prefix, value_bytes = _XATTR_ENTRY.unpack_from(body, position)
    start = position + _XATTR_ENTRY.size
    end = start + name_bytes + value_bytes
    if prefix not in _PREFIXES or end > len(body):
        raise DamagedContent("an extended attribute is damaged")
    pair = (_PREFIXES[prefix] + body[start : start + name_bytes], body[start + name_bytes : end])
    return pair, -(-end // 4) * 4
