"""The tar that a copy travels as: POSIX pax with GNU's sparse files 1.0, as GNU tar writes and reads it. Pure: bytes in, bytes out.

Sources: pax(1), GNU tar manual "Storing Sparse Files" (PAX format, version 1.0). Only what a copy needs: no global headers, no old GNU types but the
long names that other writers use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 512
FILE, HARD_LINK, SYMLINK, FIFO, DIRECTORY = b"0", b"1", b"2", b"6", b"5"
PAX, GNU_NAME, GNU_LINK = b"x", b"L", b"K"
MAX_EXTRA_BYTES = 1 << 20
"""Of a pax header or a long name."""
MAX_PATH = 4_096
END = bytes(2 * BLOCK)
_OCTAL_SIZE = 1 << 33
"""What eleven octal digits hold."""
_OCTAL_ID = 1 << 21


class BadArchive(Exception):
    """The stream is not a tar that we take."""


@dataclass(slots=True)
class Member:
    """One entry. *size* counts the bytes that follow in the stream; *real_size* is that of the file, larger when it is sparse."""

    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    real_size: int = 0
    is_sparse: bool = False


def render(member: Member) -> bytes:
    """The header of *member*, with a pax header before it where the old fields do not suffice."""
    records: list[tuple[bytes, bytes]] = []
    seconds, nanoseconds = divmod(member.mtime_ns, 1_000_000_000)
    if nanoseconds or not 0 <= seconds < _OCTAL_SIZE:
        whole, part = divmod(abs(member.mtime_ns), 1_000_000_000)
        records.append((b"mtime", b"%s%d.%09d" % (b"-" if member.mtime_ns < 0 else b"", whole, part)))
    if len(member.name) > 100 or not member.name.isascii():
        records.append((b"path", member.name))
    if len(member.target) > 100 or not member.target.isascii():
        records.append((b"linkpath", member.target))
    for key, value, limit in ((b"size", member.size, _OCTAL_SIZE), (b"uid", member.uid, _OCTAL_ID), (b"gid", member.gid, _OCTAL_ID)):
        if value >= limit:
            records.append((key, b"%d" % value))
    if member.is_sparse:
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", member.name)]
        records.append((b"GNU.sparse.realsize", b"%d" % member.real_size))
    before = b""
    if records:
        body = b"".join(_record(key, value) for key, value in records)
        before = _header(b"PaxHeader", PAX, 0o644, 0, 0, len(body), 0, b"") + body + bytes(-len(body) % BLOCK)
    return before + _header(member.name, member.kind, member.mode, member.uid, member.gid, member.size, max(seconds, 0), member.target)


def render_map(segments: Sequence[tuple[int, int]]) -> bytes:
    """Where the data of a sparse file lies: offset and length of each piece, before the data itself."""
    text = b"%d\n" % len(segments) + b"".join(b"%d\n%d\n" % segment for segment in segments)
    return text + bytes(-len(text) % BLOCK)


def parse(block: bytes) -> Member | None:
    """The header in *block*; None for an empty one, which ends an archive. Raises BadArchive."""
    if not block.strip(b"\0"):
        return None
    claimed = _octal(block[148:156])
    if sum(block[:148]) + 8 * 32 + sum(block[156:]) != claimed:
        raise BadArchive("a header's checksum is wrong")
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345] != 0:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    kind = FILE if block[156:157] in {b"\0", b"7"} else block[156:157]
    size = _octal(block[124:136])
    return Member(
        name=name, kind=kind, mode=_octal(block[100:108]) & 0o7777, uid=_octal(block[108:116]), gid=_octal(block[116:124]), size=size,
        mtime_ns=_octal(block[136:148]) * 1_000_000_000, target=block[157:257].split(b"\0", 1)[0], real_size=size,
    )  # fmt: skip


def parse_records(body: bytes) -> dict[bytes, bytes]:
    """The records of a pax header. Raises BadArchive."""
    records: dict[bytes, bytes] = {}
    place = 0
    while place < len(body):
        length, space, _ = body[place : place + 20].partition(b" ")
        if not space or not length.isdigit():
            raise BadArchive("a pax header is damaged")
        end = place + int(length)
        key, equals, value = body[place + len(length) + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= place or not equals or body[end - 1 : end] != b"\n":
            raise BadArchive("a pax header is damaged")
        records[key] = value
        place = end
    return records


def amend(member: Member, records: dict[bytes, bytes]) -> None:
    """Put what a pax header says over the fields of *member*. Raises BadArchive."""
    try:
        member.name = records.get(b"GNU.sparse.name", records.get(b"path", member.name))
        member.target = records.get(b"linkpath", member.target)
        member.size = member.real_size = int(records.get(b"size", member.size))
        member.uid, member.gid = int(records.get(b"uid", member.uid)), int(records.get(b"gid", member.gid))
        if b"mtime" in records:
            member.mtime_ns = _nanoseconds(records[b"mtime"])
        if records.get(b"GNU.sparse.major") == b"1":
            member.is_sparse = True
            member.real_size = int(records[b"GNU.sparse.realsize"])
    except (ValueError, KeyError) as error:
        raise BadArchive("a pax header is damaged") from error
    if b"GNU.sparse.map" in records or b"GNU.sparse.numblocks" in records:
        raise BadArchive("a sparse file of an old format; write it with --sparse-version=1.0")


def check_name(name: bytes) -> bytes:
    """*name* as a relative path without empty, `.` or `..` parts; empty is the directory itself. Raises BadArchive."""
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if name.startswith(b"/") or b".." in parts or b"\0" in name or len(name) > MAX_PATH:
        raise BadArchive("a name leads out of the archive: " + name[:200].decode("utf-8", "backslashreplace"))
    return b"/".join(parts)


def parse_map(numbers: Sequence[int], real_size: int) -> list[tuple[int, int]]:
    """Offsets and lengths in pairs, ascending and inside the file. Raises BadArchive."""
    segments = list(zip(numbers[::2], numbers[1::2], strict=True))
    reached = 0
    for offset, length in segments:
        if offset < reached or length < 0:
            raise BadArchive("a map of a sparse file is damaged")
        reached = offset + length
    if reached > real_size:
        raise BadArchive("a map of a sparse file is damaged")
    return segments


def _header(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, seconds: int, target: bytes) -> bytes:
    numbers = (b"%07o\0" % mode, b"%07o\0" % (uid % _OCTAL_ID), b"%07o\0" % (gid % _OCTAL_ID), b"%011o\0" % (size % _OCTAL_SIZE))
    when = b"%011o\0" % (seconds % _OCTAL_SIZE)
    fields = (name[:100].ljust(100, b"\0"), *numbers, when, b" " * 8, kind, target[:100].ljust(100, b"\0"), b"ustar\x0000", bytes(247))
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _octal(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, as GNU writes large numbers
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    text = field.strip(b" \0")
    try:
        return int(text, 8) if text else 0
    except ValueError as error:
        raise BadArchive("a number in a header is damaged") from error


def _nanoseconds(text: bytes) -> int:
    whole, _, part = text.partition(b".")
    seconds, nanoseconds = int(whole), int(part[:9].ljust(9, b"0")) if part else 0
    return seconds * 1_000_000_000 + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
