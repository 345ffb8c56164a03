"""Variables for programs, as docker takes them: `-e NAME=VALUE`, `-e NAME`, and files of such lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_FILE_BYTES = 1 << 20
"""A file of variables; an object of the API holds little more in all."""


class BadVariableError(ValueError):
    """It cannot be meant; *option* names where it came from."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(problem)
        self.option = option


def collect(files: Sequence[str], given: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """NAME=VALUE of *files*, then of *given*: the later one wins. *environment* is where a name alone looks. Raises BadVariableError."""
    return [f"{name}={value}" for name, value in merge([*read_files(files), *given], environment).items()]


def merge(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """*words* by name; a name alone is passed on from *environment*, and left out where it is not set there, as docker does. Pure."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise BadVariableError("--env", f"{word!r} has no name: write it as NAME=VALUE")
        if equals:
            found[name] = value
        elif name in environment:
            found[name] = environment[name]
    return found


def read_files(paths: Sequence[str]) -> list[str]:
    """The words of files, in order. Raises BadVariableError, also for a file that cannot be read."""
    return [word for path in paths for word in parse_file(_read(path), path)]


def parse_file(text: str, path: str) -> list[str]:
    """A word for each line, NAME=VALUE or NAME: what docker's files are. Values are taken as they stand, quotes and all. Pure.

    Empty lines and those that begin with # are left out, as is white space before a name.
    """
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        word = line.lstrip()
        if not word or word.startswith("#"):
            continue
        name = word.partition("=")[0]
        if not name or name != name.rstrip() or any(letter.isspace() for letter in name):
            raise BadVariableError("--env-file", f"{path}, line {number}: write NAME=VALUE, without spaces around the name")
        found.append(word)
    return found


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadVariableError("--env-file", f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadVariableError("--env-file", f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadVariableError("--env-file", f"{path} is no text in UTF-8") from error
