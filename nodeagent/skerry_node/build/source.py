"""A Dockerfile's text as logical lines: directives, comments, continuations, heredocs. Pure.

Source: Docker's Dockerfile reference, "Parser directives", "Format", "Here-documents".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from skerry_node.build.errors import InvalidDockerfile

MAX_BYTES, MAX_INSTRUCTIONS = 1 << 20, 2000
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"<<(-?)(?:\"([A-Za-z_][A-Za-z0-9_.]*)\"|'([A-Za-z_][A-Za-z0-9_.]*)'|([A-Za-z_][A-Za-z0-9_.]*))")
_BEFORE = re.compile(r"(^|[\s;&|])[0-9]*$")
"""A here-document opens a word, or follows the number of a descriptor; `1<<n` in arithmetic is none."""
_WITH_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})
_KNOWN_FRONTENDS = ("docker/dockerfile:", "docker.io/docker/dockerfile:")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """The text behind `<<NAME`. Quoted names say that nothing in it is expanded."""

    name: str
    content: str
    is_quoted: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """One instruction: its word in upper case, what follows it, and the line where it begins."""

    line: int
    word: str
    rest: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """The statements of a Dockerfile, the escape character that holds in it, and what a person should know."""

    statements: tuple[Statement, ...]
    escape: str
    warnings: tuple[str, ...]


def read(content: bytes) -> Source:
    """Split *content*. Raises InvalidDockerfile."""
    if len(content) > MAX_BYTES:
        raise InvalidDockerfile(f"the Dockerfile has more than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidDockerfile("the Dockerfile is not UTF-8 text", line=content[: error.start].count(b"\n") + 1) from error
    if "\0" in text:
        raise InvalidDockerfile("a NUL in the Dockerfile", line=text[: text.index("\0")].count("\n") + 1)
    lines = text.replace("\r\n", "\n").split("\n")
    directives = _read_directives(lines)
    escape = directives.get("escape", "\\")
    if escape not in {"\\", "`"}:
        raise InvalidDockerfile(f"escape must be \\ or `, not {escape[:20]!r}", line=1)
    statements = tuple(_Lines(lines, escape).statements())
    return Source(statements=statements, escape=escape, warnings=_warn(directives))


def _read_directives(lines: list[str]) -> dict[str, str]:
    """Directives stand before everything else, comments included."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None:
            break
        name = match[1].lower()
        if name not in {"escape", "syntax", "check"}:
            break  # a comment like any other
        if name in found:
            raise InvalidDockerfile(f"the directive {name} stands here twice", line=number)
        found[name] = match[2]
    return found


def _warn(directives: dict[str, str]) -> tuple[str, ...]:
    frontend = directives.get("syntax")
    if frontend is None or frontend.startswith(_KNOWN_FRONTENDS):
        return ()
    return (f"line 1: syntax={frontend[:80]} is ignored: no frontend is fetched, the Dockerfile is read as Docker's own",)


class _Lines:
    def __init__(self, lines: list[str], escape: str) -> None:
        self._lines = lines
        self._next = 0
        self._continues = re.compile(re.escape(escape) + r"[ \t]*$")

    def statements(self) -> Iterator[Statement]:
        """Every instruction in order."""
        count = 0
        while self._next < len(self._lines):
            first = self._next + 1
            text = self._read_logical()
            if not text:
                continue
            count += 1
            if count > MAX_INSTRUCTIONS:
                raise InvalidDockerfile(f"more than {MAX_INSTRUCTIONS} instructions", line=first)
            parts = text.split(None, 1)
            word, rest = parts[0].upper(), parts[1] if len(parts) > 1 else ""
            heredocs = tuple(self._read_heredocs(rest, first)) if word in _WITH_HEREDOCS else ()
            yield Statement(line=first, word=word, rest=rest, heredocs=heredocs)

    def _read_logical(self) -> str:
        """One instruction's text, continued lines joined; empty for a comment or an empty line. Comments inside are left out."""
        parts: list[str] = []
        is_continued = True
        while is_continued and self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            if _is_void(line):
                if not parts:
                    return ""
                continue  # Docker leaves empty lines inside an instruction out, too
            found = self._continues.search(line)
            is_continued = found is not None
            parts.append(line[: found.start()] if found is not None else line)
        return "".join([parts[0].lstrip(), *parts[1:]]).strip()

    def _read_heredocs(self, rest: str, line: int) -> Iterator[Heredoc]:
        for match in find_heredocs(rest):
            name = match[2] or match[3] or match[4]
            body: list[str] = []
            while True:
                if self._next >= len(self._lines):
                    raise InvalidDockerfile(f"the here-document {name} has no end", line=line, hint=f"write {name} alone on a line behind it")
                text = self._lines[self._next]
                self._next += 1
                text = text.lstrip("\t") if match[1] else text
                if text == name:
                    break
                body.append(text + "\n")
            yield Heredoc(name=name, content="".join(body), is_quoted=match[4] is None)


def find_heredocs(rest: str) -> list[re.Match[str]]:
    """Where `<<NAME` stands in *rest* outside quotes; `<<<` is the shell's own."""
    found, position = [], 0
    quote = ""
    while position < len(rest):
        char = rest[position]
        if char == "\\" and quote != "'":
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif rest.startswith("<<<", position):
            position += 3
            continue
        elif (match := _HEREDOC.match(rest, position)) and _BEFORE.search(rest, 0, position):
            found.append(match)
            position = match.end()
            continue
        position += 1
    return found


def _is_void(line: str) -> bool:
    stripped = line.strip()
    return not stripped or stripped.startswith("#")
