"""What a client asks of an exec, from the query of its request: kubectl's names (command, tty, stdin), and ours. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skerry_node.serving.refusal import Refused

if TYPE_CHECKING:
    from multidict import MultiMapping

MAX_WORDS, MAX_BYTES = 1_024, 262_144
_MAX_SECONDS = 31_536_000
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,62})")
_VARIABLE = re.compile(r"[^=\0]{1,256}=[^\0]*")
_TRUE, _FALSE = frozenset({"", "1", "true"}), frozenset({"0", "false"})


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """One exec. `name` is empty when the agent shall make one up; with a name it outlives the loss of its client."""

    command: tuple[str, ...]
    name: str = ""
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    has_terminal: bool = False
    has_input: bool = False
    is_detached: bool = False
    timeout_seconds: float | None = None
    columns: int = 80
    rows: int = 24


def parse(query: MultiMapping[str]) -> ExecOptions:
    """From command (repeated), tty, stdin, id, env (repeated NAME=VALUE), user, workingDir, timeout, columns, rows, detach. Raises Refused."""
    command, env = tuple(query.getall("command", [])), tuple(query.getall("env", []))
    if len(command) > MAX_WORDS or len(env) > MAX_WORDS or sum(map(len, (*command, *env))) > MAX_BYTES:
        raise Refused(f"must be at most {MAX_WORDS} words and {MAX_BYTES} characters", field="command")
    if any("\0" in word for word in command):
        raise Refused("must not hold a zero byte", field="command")
    if any(_VARIABLE.fullmatch(variable) is None for variable in env):
        raise Refused("must be NAME=VALUE", field="env")
    name = query.get("id", "")
    if name and _NAME.fullmatch(name) is None:
        raise Refused("must be lower-case letters, digits and dashes, at most 63", field="id")
    working_dir = query.get("workingDir", "")
    if working_dir and (not working_dir.startswith("/") or "\0" in working_dir or len(working_dir) > 4_096):
        raise Refused("must be an absolute path", field="workingDir")
    return ExecOptions(
        command=command,
        name=name,
        env=env,
        user=parse_user(query),
        working_dir=working_dir,
        has_terminal=flag(query, "tty"),
        has_input=flag(query, "stdin"),
        is_detached=flag(query, "detach"),
        timeout_seconds=_seconds(query),
        columns=number(query, "columns", default=80, high=65_535),
        rows=number(query, "rows", default=24, high=65_535),
    )


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """One task of ours in a sandbox, by its name in the keeper, with its arguments."""

    task: str
    arguments: tuple[str, ...]
    user: str = ""


def parse_copy(query: MultiMapping[str]) -> CopyOptions:
    """From path and do: `out` (name, follow), `in` (owners), `stat` (follow), `list`; and user. Raises Refused."""
    path, what = query.get("path", ""), query.get("do", "stat")
    if not path or "\0" in path or len(path) > 4_096:
        raise Refused("name a path in the sandbox", field="path")
    name = query.get("name", "")
    if "\0" in name or len(name) > 255 or "/" in name:
        raise Refused("must be the name of a file", field="name")
    follow = "follow" if flag(query, "follow") else ""
    arguments = {
        "out": ("pack", (path, name or path.rstrip("/").rpartition("/")[2] or ".", follow)),
        "in": ("unpack", (path, "owners" if flag(query, "owners") else "")),
        "stat": ("stat", (path, follow)),
        "list": ("list", (path,)),
    }
    if what not in arguments:
        raise Refused("must be out, in, stat or list", field="do")
    return CopyOptions(*arguments[what], user=parse_user(query))


def parse_user(query: MultiMapping[str]) -> str:
    """`user`, as `name`, `uid` or `uid:gid`. Raises Refused."""
    user = query.get("user", "")
    if len(user) > 513 or any(character.isspace() or character == "\0" for character in user):
        raise Refused("must be NAME, UID or UID:GID", field="user")
    return user


def flag(query: MultiMapping[str], name: str) -> bool:
    """A flag as kubectl writes it. Raises Refused."""
    value = query.get(name, "false")
    if value not in _TRUE | _FALSE:
        raise Refused("must be true or false", field=name)
    return value in _TRUE


def number(query: MultiMapping[str], name: str, *, default: int, high: int) -> int:
    """A whole number from 0 to *high*. Raises Refused."""
    text = query.get(name, str(default))
    if not text.isdecimal() or len(text) > 9 or int(text) > high:
        raise Refused(f"must be a number from 0 to {high}", field=name)
    return int(text)


def _seconds(query: MultiMapping[str]) -> float | None:
    text = query.get("timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _MAX_SECONDS:
        raise Refused(f"must be a number of seconds up to {_MAX_SECONDS}", field="timeout")
    return seconds
