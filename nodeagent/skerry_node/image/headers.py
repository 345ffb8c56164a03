"""Fields of tar headers and pax records, parsed and bounded. Pure.

Source: pax(1) of POSIX.1-2024; tar(5) of FreeBSD.
"""

from __future__ import annotations

import functools

from skerry_node.image.errors import InvalidLayer

MAX_XATTRS_BYTES = 48 << 10
"""An EROFS inode counts its xattr bytes in fours, in 16 bits; 48 KiB stays inside with room."""
_XATTR_PREFIX = b"SCHILY.xattr."
_MAX_RECORDS = 4096
_MAX_SECONDS = (1 << 33) - 1


def parse_text(part: bytes) -> bytes:
    """Give a field up to its first NUL."""
    return part.split(b"\0", 1)[0]


@functools.lru_cache(maxsize=4096)
def parse_number(part: bytes) -> int:
    """Octal, or base 256 when the first bit is set (GNU)."""
    if part[0] & 0x80:
        value = int.from_bytes(part, "big") & ((1 << (8 * len(part) - 1)) - 1)
        if part[0] & 0x40:
            raise InvalidLayer("a negative number in a tar header")
        return value
    return parse_octal(part)


@functools.lru_cache(maxsize=4096)
def parse_octal(part: bytes) -> int:
    """Octal digits between spaces and NULs; nothing is 0. No sign, and nothing else that int() would take."""
    digits = part.strip(b" \0")
    if digits.strip(b"01234567"):
        raise InvalidLayer("a tar header has a number that is none")
    return int(digits, 8) if digits else 0


def pax_number(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    """Give the number that pax says, else *default*."""
    text = pax.get(key)
    if text is None:
        return default
    if not text.isdigit() or len(text) > 19:
        raise InvalidLayer(f"the pax header {key.decode('ascii', 'replace')} is no number")
    return int(text)


def parse_ownership(numbers: bytes, mtime: bytes, pax: dict[bytes, bytes]) -> tuple[int, int, int, int]:
    """Permission bits, owner, group, and the time in nanoseconds, of a header's fields *numbers* (all three) and *mtime*, with what pax says."""
    if not pax:
        return *_parse_numbers(numbers), _parse_mtime(mtime)
    uid, gid = pax_number(pax, b"uid", parse_number(numbers[8:16])), pax_number(pax, b"gid", parse_number(numbers[16:]))
    time_ns = parse_time(pax.get(b"mtime"), parse_signed(mtime))
    return parse_number(numbers[:8]) & 0o7777, _checked_owner(uid), _checked_owner(gid), time_ns


@functools.lru_cache(maxsize=4096)
def _parse_numbers(numbers: bytes) -> tuple[int, int, int]:
    owner, group = parse_number(numbers[8:16]), parse_number(numbers[16:])
    return parse_number(numbers[:8]) & 0o7777, _checked_owner(owner), _checked_owner(group)


@functools.lru_cache(maxsize=4096)
def _parse_mtime(mtime: bytes) -> int:
    return parse_time(None, parse_signed(mtime))


def _checked_owner(value: int) -> int:
    """Give *value* if it is a 32-bit id; all ones means none (chown(2))."""
    if value > 0xFFFFFFFE:
        raise InvalidLayer(f"owner {value} is no 32-bit id")
    return value


def parse_device(major_field: bytes, minor_field: bytes) -> tuple[int, int]:
    """Major and minor, of 12 and 20 bits (linux/kdev_t.h)."""
    major, minor = parse_number(major_field), parse_number(minor_field)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise InvalidLayer(f"a device {major}:{minor}")
    return major, minor


def parse_signed(part: bytes) -> int:
    """Give a header's time, which base 256 may put before 1970."""
    return int.from_bytes(part, "big", signed=True) if part[0] == 0xFF else parse_number(part)


def parse_time(text: bytes | None, default: int) -> int:
    """Seconds with a fraction, to nanoseconds; what goes beyond 33 bits is held to the nearest."""
    if text is None:
        return max(-_MAX_SECONDS, min(default, _MAX_SECONDS)) * 1_000_000_000
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(whole) > 18:
        raise InvalidLayer("the pax header mtime is no time")
    value = min(int(whole), _MAX_SECONDS) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def parse_pax(body: bytes) -> dict[bytes, bytes]:
    """Records of `length key=value` and a newline."""
    found: dict[bytes, bytes] = {}
    offset = count = 0
    while offset < len(body):
        space = body.find(b" ", offset, offset + 20)
        digits = body[offset:space] if space > 0 else b""
        if not digits.isdigit():
            raise InvalidLayer("a pax header that is none")
        end = offset + int(digits)
        record = body[space + 1 : end]
        if end <= space + 1 or end > len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise InvalidLayer("a pax header that is none")
        key, _, value = record[:-1].partition(b"=")
        found[key] = value
        offset, count = end, count + 1
        if count > _MAX_RECORDS:
            raise InvalidLayer(f"a pax header with more than {_MAX_RECORDS} records")
    return found


def parse_xattrs(pax: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Give the extended attributes that may pass: user ones.

    Those of the kernel's security, of ACLs and of overlay itself are dropped.
    """
    found = []
    for key, value in pax.items():
        name = key.removeprefix(_XATTR_PREFIX)
        if key.startswith(_XATTR_PREFIX) and name.startswith(b"user.") and not name.startswith(b"user.overlay."):
            found.append((name, value))
    if any(not 5 < len(name) <= 255 or b"\0" in name for name, _ in found):
        raise InvalidLayer("an extended attribute's name is empty, too long or has a NUL")
    if sum(len(name) + len(value) + 8 for name, value in found) > MAX_XATTRS_BYTES:
        raise InvalidLayer("a file has too many extended attributes")
    return tuple(sorted(found))
