"""What `.dockerignore` leaves out of a build context: Docker's rules, to the letter. Pure; client and node read it alike.

Source: Docker's documentation, "Build context", ".dockerignore files"; the order of its rules: the last pattern that matches a path or a
directory above it decides.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

MAX_BYTES, MAX_PATTERNS = 1 << 20, 10_000
_SPECIAL = frozenset(".+()|{}$")


class InvalidIgnoreFile(ValueError):
    """A line of the file is no pattern; the message names it."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: *is_exception* where it began with an exclamation mark."""

    expression: re.Pattern[str]
    is_exception: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """The patterns in order."""

    patterns: tuple[Pattern, ...] = ()

    @property
    def has_exceptions(self) -> bool:
        """Whether something below an ignored directory may be wanted."""
        return any(pattern.is_exception for pattern in self.patterns)

    def is_ignored(self, path: str) -> bool:
        """Whether *path*, relative to the context and with slashes, is left out."""
        parts = path.split("/")
        above = ["/".join(parts[:length]) for length in range(1, len(parts))]
        ignored = False
        for pattern in self.patterns:
            if pattern.is_exception != ignored:
                continue
            if any(pattern.expression.fullmatch(each) for each in (path, *above)):
                ignored = not pattern.is_exception
        return ignored


def parse(text: str) -> Rules:
    """The rules in a `.dockerignore`. Raises InvalidIgnoreFile."""
    patterns = []
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or raw.startswith("#"):
            continue
        is_exception = line.startswith("!")
        line = line[1:].strip() if is_exception else line
        if not line:
            raise InvalidIgnoreFile(f"line {number}: ! stands alone; write !PATTERN")
        line = posixpath.normpath(line).lstrip("/") or "."
        try:
            patterns.append(Pattern(re.compile(_translate(line), re.DOTALL), is_exception))
        except re.error as error:
            raise InvalidIgnoreFile(f"line {number}: {line[:80]!r} is no pattern: {error}") from error
        if len(patterns) > MAX_PATTERNS:
            raise InvalidIgnoreFile(f"more than {MAX_PATTERNS} patterns")
    return Rules(tuple(patterns))


def _translate(pattern: str) -> str:
    """Docker's pattern as a regular expression: `**` is any number of directories, `*` and `?` stop at a slash."""
    out, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if pattern.startswith("**", position - 1):
            position += 1
            if pattern.startswith("/", position):
                position += 1
            out += ".*" if position >= len(pattern) else "(.*/)?"
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "\\":
            out += re.escape(pattern[position : position + 1]) if position < len(pattern) else r"\\"
            position += 1
        else:
            out += "\\" + char if char in _SPECIAL else char
    return out
