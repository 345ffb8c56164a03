"""The operands of single instructions: flags, JSON lists, pairs, commands. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet

from skerry_node.build import words
from skerry_node.build.errors import InvalidDockerfile
from skerry_node.build.instructions import Command
from skerry_node.build.source import Statement

_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REMOTE = re.compile(r"(https?|ftp|git|ssh)://|git@[^/:]+:", re.IGNORECASE)


def show(statement: Statement) -> str:
    """The instruction as a person and the cache see it."""
    return f"{statement.word} {' '.join(statement.rest.split())}".strip()


def take_flags(statement: Statement, known: AbstractSet[str]) -> tuple[dict[str, str], str]:
    """The `--name=value` in front, and what follows them. Raises InvalidDockerfile for one that is not in *known*."""
    flags: dict[str, str] = {}
    rest = statement.rest.lstrip()
    while (match := _FLAG.match(rest)) is not None:
        name, value = match[1], match[2]
        if name not in known:
            listed = ", ".join(f"--{each}" for each in sorted(known))
            raise InvalidDockerfile(f"{statement.word} knows no --{name}; it takes {listed}", line=statement.line)
        if value is None and name != "link":
            raise InvalidDockerfile(f"--{name} needs a value, as --{name}=VALUE", line=statement.line)
        if name in flags:
            raise InvalidDockerfile(f"--{name} stands here twice", line=statement.line)
        flags[name] = value if value is not None else "true"
        rest = rest[match.end() :]
    return flags, rest


def find_json(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON list; None where the text is no such list."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        return None
    return tuple(found)


def parse_command(rest: str) -> Command:
    """A JSON list is executed as it is; all else is for the shell."""
    found = find_json(rest)
    if found is not None:
        return Command(words=found, is_shell=False)
    return Command(words=(rest,) if rest else (), is_shell=True)


def parse_words(rest: str) -> list[str]:
    """A JSON list, or words between blanks; quotes mean nothing here but to `expand`, as with Docker."""
    found = find_json(rest)
    return list(found) if found is not None else rest.split()


def parse_pairs(statement: Statement, escape: str) -> tuple[tuple[str, str], ...]:
    """`NAME=VALUE ...`, or the old `NAME VALUE` to the end of the line. Raises InvalidDockerfile."""
    parts = words.split(statement.rest, escape=escape)
    if not parts:
        raise InvalidDockerfile(f"{statement.word} needs NAME=VALUE", line=statement.line)
    if "=" not in parts[0]:
        name, _, value = statement.rest.strip().partition(" ")
        if "\t" in name:
            name, _, value = statement.rest.strip().partition("\t")
        if not value.strip():
            raise InvalidDockerfile(f"{statement.word} {name[:40]} has no value; write {name[:40]}=VALUE", line=statement.line)
        return ((name, value.strip()),)
    pairs = []
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not name:
            problem = f"{part[:40]!r} is no NAME=VALUE; put quotes around a value with blanks"
            raise InvalidDockerfile(problem, line=statement.line)
        pairs.append((name, value))
    return tuple(pairs)


def parse_arguments(statement: Statement, escape: str) -> tuple[tuple[str, str | None], ...]:
    """`NAME` or `NAME=VALUE`, several of them. Raises InvalidDockerfile."""
    parts = words.split(statement.rest, escape=escape)
    if not parts:
        raise InvalidDockerfile("ARG needs a name", line=statement.line)
    pairs: list[tuple[str, str | None]] = []
    for part in parts:
        name, equals, value = part.partition("=")
        if _VARIABLE.fullmatch(name) is None:
            raise InvalidDockerfile(f"{name[:40]!r} is no name of a variable", line=statement.line)
        pairs.append((name, value if equals else None))
    return tuple(pairs)


def check_stage_name(name: str, line: int) -> None:
    """Raises InvalidDockerfile for a name that no stage may have."""
    if _STAGE_NAME.fullmatch(name) is None or name == "scratch":
        raise InvalidDockerfile(f"{name[:40]!r} cannot be the name of a stage; letters first, then letters, digits, - _ .", line=line)


def is_remote(text: str) -> bool:
    """Whether ADD would have to fetch it."""
    return _REMOTE.match(text) is not None
