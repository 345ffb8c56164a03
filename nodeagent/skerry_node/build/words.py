r"""Words of a Dockerfile: quotes, escapes, and variables as `$x`, `${x}`, `${x:-y}`, `${x:+y}`, `${x:?y}` and without the colon. Pure.

Source: Docker's Dockerfile reference, "Environment replacement"; POSIX.1-2024, 2.6.2 for the forms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from skerry_node.build.errors import InvalidDockerfile

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = frozenset("@*#?-$!0123456789")
MAX_EXPANDED = 1 << 20
"""Characters of one operand after expansion: a few variables that hold one another must not fill memory."""


def expand(text: str, variables: Mapping[str, str], *, escape: str, line: int) -> str:
    """*text* as one word: quotes removed, variables replaced. Raises InvalidDockerfile."""
    return _Expander(text, variables, escape=escape, line=line).expand_word()


def expand_keeping_quotes(text: str, variables: Mapping[str, str], *, escape: str, line: int) -> str:
    """*text* with variables replaced and all else as it is: for the content of here-documents."""
    return _Expander(text, variables, escape=escape, line=line).expand_raw()


def split(text: str, *, escape: str) -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay, for `expand`."""
    words: list[str] = []
    current, quote, has_word = "", "", False
    position = 0
    while position < len(text):
        char = text[position]
        if char == escape and quote != "'" and position + 1 < len(text):
            current += text[position : position + 2]
            has_word = True
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote, has_word = char, True
        elif char.isspace():
            if has_word:
                words.append(current)
            current, has_word = "", False
            position += 1
            continue
        current += char
        has_word = True
        position += 1
    return [*words, current] if has_word else words


class _Expander:
    def __init__(self, text: str, variables: Mapping[str, str], *, escape: str, line: int) -> None:
        self._text, self._variables, self._escape, self._line = text, variables, escape, line
        self._position = 0

    def expand_word(self, *, until: str = "") -> str:
        """Up to the character *until*, or the end."""
        out: list[str] = []
        length = 0
        while self._position < len(self._text):
            char = self._text[self._position]
            if char == until:
                break
            if char == "'":
                piece = self._single_quoted()
            elif char == '"':
                piece = self._double_quoted()
            elif char == "$":
                piece = self._variable()
            elif char == self._escape:
                self._position += 1
                piece = self._take()
            else:
                piece = self._take()
            out.append(piece)
            length += len(piece)
            if length > MAX_EXPANDED:
                raise self._fail("it grows too large when its variables are replaced")
        return "".join(out)

    def expand_raw(self) -> str:
        """All of the text; only variables and escaped dollars change."""
        out: list[str] = []
        while self._position < len(self._text):
            char = self._text[self._position]
            if char == "$":
                out.append(self._variable())
            elif char == self._escape and self._text[self._position + 1 : self._position + 2] == "$":
                self._position += 1
                out.append(self._take())
            else:
                out.append(self._take())
        return "".join(out)

    def _take(self) -> str:
        char = self._text[self._position : self._position + 1]
        self._position += 1
        return char

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            raise self._fail("a single quote is not closed")
        piece = self._text[self._position + 1 : end]
        self._position = end + 1
        return piece

    def _double_quoted(self) -> str:
        self._position += 1
        out: list[str] = []
        while self._position < len(self._text):
            char = self._text[self._position]
            if char == '"':
                self._position += 1
                return "".join(out)
            if char == "$":
                out.append(self._variable())
            elif char == self._escape:
                self._position += 1
                following = self._take()
                out.append(following if following in {'"', "$", self._escape} else char + following)
            else:
                out.append(self._take())
        raise self._fail("a double quote is not closed")

    def _variable(self) -> str:
        self._position += 1
        if self._text[self._position : self._position + 1] == "{":
            self._position += 1
            return self._braced()
        name = self._read_name()
        return "$" if not name else self._variables.get(name, "")

    def _read_name(self) -> str:
        match = _NAME.match(self._text, self._position)
        if match is not None:
            self._position = match.end()
            return match[0]
        if self._text[self._position : self._position + 1] in _SPECIAL:
            return self._take()
        return ""

    def _braced(self) -> str:
        name = self._read_name()
        if not name:
            raise self._fail("${ is followed by no name")
        value = self._variables.get(name)
        operator = self._take()
        if operator == "}":
            return value or ""
        is_set = value is not None
        if operator == ":":
            operator, is_set = self._take(), bool(value)
        if operator not in {"-", "+", "?"}:
            raise self._fail(f"${{{name}{operator}...}} is not supported; write ${{{name}:-default}} or ${{{name}:+other}}")
        other = self.expand_word(until="}")
        if self._take() != "}":
            raise self._fail(f"${{{name} is not closed")
        if operator == "?" and not is_set:
            raise self._fail(f"{name}: {other or 'it is not set'}")
        if operator == "+":
            return other if is_set else ""
        return (value or "") if is_set else other

    def _fail(self, problem: str) -> InvalidDockerfile:
        return InvalidDockerfile(f"{problem}: {self._text[:60]!r}", line=self._line)
