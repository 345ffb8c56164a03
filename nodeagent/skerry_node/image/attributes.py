"""Extended attributes as EROFS keeps them: those that several inodes have stand once, in a table of their own. Pure.

Layout: fs/erofs/erofs_fs.h, struct erofs_xattr_ibody_header and erofs_xattr_entry.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from skerry_node.image.errors import InvalidLayer

Pairs = tuple[tuple[bytes, bytes], ...]
HEADER_BYTES = 12
_HEADER, _ENTRY, _NUMBER = struct.Struct("<IB7x"), struct.Struct("<BBH"), struct.Struct("<I")
_PREFIXES = ((b"user.", 1), (b"trusted.", 4))
_MAX_SHARED = 255
"""The count of an inode's shared ones is a byte."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The table of attributes that are shared, and where each stands in it, in units of 4 bytes."""

    table: bytes
    places: dict[tuple[bytes, bytes], int]

    def render(self, pairs: Pairs) -> bytes:
        """What stands behind an inode with *pairs*."""
        ordered = sorted(pairs)
        shared = [pair for pair in ordered if pair in self.places][:_MAX_SHARED]
        own = [pair for pair in ordered if pair not in set(shared)]
        numbers = b"".join(_NUMBER.pack(self.places[pair]) for pair in shared)
        return _HEADER.pack(0, len(shared)) + numbers + b"".join(_render(*pair) for pair in own)


def share(inodes: Iterable[Pairs]) -> Shared:
    """Decide what is shared: whatever two inodes or more have."""
    counts = Counter(pair for pairs in inodes for pair in pairs)
    table, places = bytearray(), dict[tuple[bytes, bytes], int]()
    for pair in sorted(pair for pair, count in counts.items() if count > 1):
        places[pair] = len(table) // 4
        table += _render(*pair)
    return Shared(table=bytes(table), places=places)


def _render(name: bytes, value: bytes) -> bytes:
    for prefix, index in _PREFIXES:
        if name.startswith(prefix):
            short = name[len(prefix) :]
            body = _ENTRY.pack(len(short), index, len(value)) + short + value
            return body + bytes(-len(body) % 4)
    raise InvalidLayer(f"an extended attribute {name!r}")
