"""Who --chown means: numbers as they are, names from the passwd and group files inside the root, which are hostile."""

from __future__ import annotations

import re

from skerry_node.build import trees
from skerry_node.build.errors import BuildError

_MAX_FILE_BYTES = 1 << 20
_MAX_ID = 0xFFFFFFFE
"""All ones means no id (chown(2))."""
_NUMBER = re.compile(r"[0-9]{1,10}")


def resolve(text: str, root: trees.Node) -> tuple[int, int]:
    """The owner and group of `user[:group]`. A number alone is both, a name alone brings its own group. Raises BuildError."""
    user, colon, group = text.partition(":")
    uid, gid = 0, 0
    if (number := _parse_id(user)) is not None:
        uid = gid = number
    elif user:
        found = _find(root, b"etc/passwd", user, fields=4)
        uid, gid = _entry_id(found[2], user), _entry_id(found[3], user)
    if colon and group:
        number = _parse_id(group)
        gid = number if number is not None else _entry_id(_find(root, b"etc/group", group, fields=3)[2], group)
    return uid, gid


def parse_mode(text: str) -> int:
    """The bits of --chmod, in octal. Raises BuildError."""
    if re.fullmatch(r"[0-7]{1,5}", text) is None or int(text, 8) > 0o7777:
        raise BuildError(f"--chmod={text[:20]} is no mode; write it in octal, as --chmod=755")
    return int(text, 8)


def _parse_id(text: str) -> int | None:
    if _NUMBER.fullmatch(text) is None:
        return None
    if int(text) > _MAX_ID:
        raise BuildError(f"--chown: {text} is no 32-bit id")
    return int(text)


def _entry_id(field: bytes, name: str) -> int:
    number = _parse_id(field.decode("ascii", "replace"))
    if number is None:
        raise BuildError(f"--chown: the image's entry of {name[:40]!r} has no number")
    return number


def _find(root: trees.Node, path: bytes, name: str, *, fields: int) -> list[bytes]:
    node = trees.resolve(root, path).node
    content = trees.read_small(node, _MAX_FILE_BYTES) if node is not None else b""
    for line in content.split(b"\n"):
        parts = line.split(b":")
        if len(parts) >= fields and parts[0] == name.encode():
            return parts
    raise BuildError(f"--chown: the image's /{path.decode()} has no {name[:40]!r}; give a number, or add it first")
