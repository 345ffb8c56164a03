"""Names with wildcards among the sources of COPY and ADD, matched in a tree. Pure.

Source: Go's path/filepath.Match, which Docker's reference names: `*` and `?` stop at a slash, `[a-z]`, `[^a]`, and a backslash escapes.
"""

from __future__ import annotations

import re

from skerry_node.build import trees
from skerry_node.build.errors import BuildError

_MAX_MATCHES = 10_000


def has_wildcard(text: bytes) -> bool:
    """Whether *text* names several, perhaps."""
    return any(char in text for char in b"*?[\\")


def find(root: trees.Node, pattern: bytes) -> list[tuple[bytes, trees.Node]]:
    """Paths and nodes that *pattern* names in *root*, in order; links on the way are followed inside the root. Raises BuildError."""
    if not has_wildcard(pattern):
        place = trees.resolve(root, pattern)
        return [] if place.node is None else [(pattern, place.node)]
    matches: list[tuple[bytes, trees.Node]] = [(b"", root)]
    for part in trees.split(pattern):
        matches = [found for path, node in matches for found in _step(root, path, node, part)]
        if len(matches) > _MAX_MATCHES:
            raise BuildError(f"{pattern[:80]!r} names more than {_MAX_MATCHES} files")
    return matches


def _step(root: trees.Node, path: bytes, node: trees.Node, part: bytes) -> list[tuple[bytes, trees.Node]]:
    if not trees.is_directory(node):
        return []
    expression = translate(part)
    found = []
    for name in sorted(node.children()):
        if expression.fullmatch(name) is not None:
            inner = path + b"/" + name
            place = trees.resolve(root, inner)
            if place.node is not None:
                found.append((inner, place.node))
    return found


def translate(part: bytes) -> re.Pattern[bytes]:
    """One part of a pattern as a regular expression. Raises BuildError."""
    out, position = bytearray(), 0
    while position < len(part):
        char = part[position : position + 1]
        position += 1
        if char == b"*":
            out += b"[^/]*"
        elif char == b"?":
            out += b"[^/]"
        elif char == b"\\":
            if position >= len(part):
                raise BuildError(f"the pattern {part[:80]!r} ends with a backslash")
            out += re.escape(part[position : position + 1])
            position += 1
        elif char == b"[":
            piece, position = _class(part, position)
            out += piece
        else:
            out += re.escape(char)
    try:
        return re.compile(bytes(out), re.DOTALL)
    except re.error as error:
        raise BuildError(f"the pattern {part[:80]!r} is none: {error}") from error


def _class(part: bytes, position: int) -> tuple[bytes, int]:
    """A class from behind its bracket on, and where it ends."""
    out = bytearray(b"[")
    if part[position : position + 1] == b"^":
        out += b"^"
        position += 1
    first = position
    while position < len(part):
        char = part[position : position + 1]
        if char == b"]" and position > first:
            return bytes(out + b"]"), position + 1
        if char == b"\\":
            position += 1
            char = part[position : position + 1]
        out += char if char == b"-" else re.escape(char)
        position += 1
    raise BuildError(f"the pattern {part[:80]!r} has a bracket that is not closed")
