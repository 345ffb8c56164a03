"""Who the program runs as, by the root filesystem's own /etc/passwd and /etc/group. Runs in the child.

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
class Accounts:
    """The colon-separated records of a root's /etc/passwd, of six fields or more, and of its /etc/group."""

    passwd: list[list[bytes]]
    groups: list[list[bytes]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Ids inside the sandbox, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: bytes


def read_accounts(root_fd: int) -> Accounts:
    """The accounts below *root_fd*. A missing or irregular file has none."""
    passwd = [fields for fields in _records(root_fd, b"etc/passwd") if len(fields) >= 6]
    return Accounts(passwd=passwd, groups=_records(root_fd, b"etc/group"))


def resolve(user: str, accounts: Accounts) -> Identity:
    """The identity for `user`, `uid`, `user:group` or `uid:gid`; empty is root. Raises UnknownUser."""
    name, colon, group_name = user.partition(":")
    uid, gid, login, home = _find_user(name, accounts.passwd)
    if colon:
        gid = _find_group(group_name, accounts.groups)
    extra = () if colon else _supplementary(login, accounts.groups)
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


def _records(root_fd: int, path: bytes) -> list[list[bytes]]:
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
    try:
        fd = syscalls.openat2(root_fd, path, flags=os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve=resolve)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return []
        content = os.read(fd, status.st_size)
    finally:
        os.close(fd)
    return [line.split(b":") for line in content.split(b"\n") if line and not line.startswith(b"#")]
