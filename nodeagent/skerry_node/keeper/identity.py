"""Who the program runs as, by the root filesystem's own /etc/passwd and /etc/group. Runs in the child, after it entered the root.

The files are hostile: regular ones only, at most 1 MiB, no NSS. Numbers stay numbers and are never looked up as names.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from skerry_node.kernel import syscalls

MAX_FILE_BYTES = 1 << 20
MAX_ID = 4_294_967_294
MAX_GROUPS = 1024
RANGE = 65_536


class UnknownUser(Exception):
    """The user or group is not there, or not an id that a sandbox has."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Ids inside the sandbox, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: bytes


def resolve(user: str) -> Identity:
    """The identity for `user`, `uid`, `user:group` or `uid:gid`; empty is root. Raises UnknownUser."""
    name, colon, group_name = user.partition(":")
    passwd = [fields for fields in _records(b"etc/passwd") if len(fields) >= 6]
    uid, gid, login, home = _find_user(name, passwd)
    groups = _records(b"etc/group") if (group_name and not _is_number(group_name)) or login else []
    if colon:
        gid = _find_group(group_name, groups)
    extra = () if colon else _supplementary(login, groups)
    for number in (uid, gid, *extra):
        if number >= RANGE:
            raise UnknownUser(f"id {number} is outside the sandbox's range; use 0 to {RANGE - 1}")
    return Identity(uid=uid, gid=gid, groups=extra[:MAX_GROUPS], home=home or b"/")


def _find_user(name: str, passwd: list[list[bytes]]) -> tuple[int, int, bytes, bytes]:
    if not name or _is_number(name):
        uid = _number(name or "0")
        for fields in passwd:
            if fields[2].isdigit() and int(fields[2][:11]) == uid:
                return uid, _field_id(fields[3]), fields[0], fields[5]
        return uid, 0, b"", b"/"
    for fields in passwd:
        if fields[0] == name.encode():
            return _field_id(fields[2]), _field_id(fields[3]), fields[0], fields[5]
    raise UnknownUser(f"no user {name!r} in the image's /etc/passwd; use a number or a name that is there")


def _find_group(name: str, groups: list[list[bytes]]) -> int:
    if _is_number(name):
        return _number(name)
    for fields in groups:
        if fields[0] == name.encode() and len(fields) >= 3:
            return _field_id(fields[2])
    raise UnknownUser(f"no group {name!r} in the image's /etc/group; use a number or a name that is there")


def _supplementary(login: bytes, groups: list[list[bytes]]) -> tuple[int, ...]:
    if not login:
        return ()
    return tuple(_field_id(fields[2]) for fields in groups if len(fields) >= 4 and login in fields[3].split(b","))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    value = int(text) if len(text) <= 10 else MAX_ID + 1
    if value > MAX_ID:
        raise UnknownUser(f"{text} is not an id; use 0 to {MAX_ID}")
    return value


def _field_id(text: bytes) -> int:
    if not text.isdigit():
        raise UnknownUser("the image's /etc/passwd or /etc/group has an id that is not a number")
    return _number(text.decode("ascii"))


def _records(path: bytes) -> list[list[bytes]]:
    """The colon-separated records of a file below the root; a missing or irregular one has none."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
    try:
        fd = syscalls.openat2(root, path, flags=os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve=resolve)
    except OSError:
        return []
    finally:
        os.close(root)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return []
        content = os.read(fd, status.st_size)
    finally:
        os.close(fd)
    return [line.split(b":") for line in content.split(b"\n") if line and not line.startswith(b"#")]
