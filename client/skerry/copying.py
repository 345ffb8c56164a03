"""Copies between this machine and a sandbox, by docker's rules for what a copy is called."""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from skerry import archives
from skerry.errors import AgentUnavailable, SkerryError

if TYPE_CHECKING:
    from skerry.streaming import Stream

Open = Callable[..., "Stream"]
"""Opens a stream of the sandbox's `cp` for a path, with what `do` says and other options."""
_STDOUT, _STDERR = 1, 2
_LAST_WORD_SECONDS = 5.0


class CopyFailed(SkerryError):
    """The copy could not be made, or not all of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy goes: into *directory*, which is there, as *name*; an empty name stands for what is in the source."""

    directory: str
    name: str


def find_place(source: str, *, is_directory: bool, target: str, target_kind: str | None) -> Place:
    """Docker's rules. *target_kind* is d for a directory, None for nothing, another letter for a file. Raises CopyFailed."""
    name = posixpath.basename(posixpath.normpath(source))
    if target_kind == "d":
        takes_contents = (is_directory and source.endswith(("/.", "/./"))) or source == "."
        return Place(target, "" if takes_contents else name)
    before, last = posixpath.split(posixpath.normpath(target))
    if target_kind is None and not is_directory and target.endswith("/"):
        raise CopyFailed(f"no directory {target}", hint="make it first, or leave the last / out to name the file so")
    if target_kind is not None and is_directory:
        raise CopyFailed(f"{target} is a file: a directory cannot be copied over it")
    return Place(before or ".", last)


def copy_in(opened: Open, source: str, target: str, *, keeps_owners: bool = False, follows: bool = False, warn: archives.Warn) -> None:
    """The local file or tree *source* to the sandbox's *target*. Raises CopyFailed, OSError."""
    is_directory = os.path.isdir(source) and (follows or not os.path.islink(source))
    if not os.path.lexists(source):
        raise CopyFailed(f"no file {source} here")
    found = look(opened, target, follow=True)
    place = find_place(os.path.abspath(source) if source == ".." else source, is_directory=is_directory, target=target, target_kind=_kind(found))
    send(opened, place.directory, archives.pack(source, place.name, follows=follows, warn=warn), keeps_owners=keeps_owners, warn=warn)


def copy_out(opened: Open, source: str, target: str, *, keeps_owners: bool = False, follows: bool = False, warn: archives.Warn) -> None:
    """The sandbox's file or tree *source* to the local *target*. Raises CopyFailed, OSError."""
    found = look(opened, source, follow=follows)
    if found is None:
        raise CopyFailed(f"no file {source} in the sandbox")
    kind = None if not os.path.lexists(target) else "d" if os.path.isdir(target) else "f"
    place = find_place(source, is_directory=found["type"] == "d", target=target, target_kind=kind)
    directory, name = (place.directory, place.name) if place.name else os.path.split(os.path.realpath(target))
    if not os.path.isdir(directory):
        raise CopyFailed(f"no directory {directory} here")
    stream = opened(source, do="out", name=name, follow=follows)
    try:
        reader = Reader(stream, warn)
        archives.unpack(cast("IO[bytes]", reader), directory, name, keeps_owners=keeps_owners, warn=warn)
        reader.finish()
    finally:
        stream.close()


def send(opened: Open, directory: str, pieces: Iterable[bytes], *, keeps_owners: bool, warn: archives.Warn) -> None:
    """A tar into the sandbox's *directory*. Raises CopyFailed."""
    stream = opened(directory, do="in", owners=keeps_owners)
    answers = threading.Thread(target=_read_answers, args=(stream, warn), daemon=True)
    answers.start()
    try:
        try:
            for piece in pieces:
                if not answers.is_alive():
                    break
                stream.send(0, piece)
            else:
                stream.close_stdin()
        except AgentUnavailable:
            answers.join(_LAST_WORD_SECONDS)
            if stream.end is None:  # else it has said why it reads no more
                raise
        answers.join()
        _check_end(stream)
    finally:
        stream.close()


def receive(opened: Open, path: str, *, follows: bool, warn: archives.Warn) -> Iterable[bytes]:
    """The sandbox's file or tree as pieces of a tar. Raises CopyFailed."""
    stream = opened(path, do="out", follow=follows)
    try:
        reader = Reader(stream, warn)
        while data := reader.read(1 << 20):
            yield data
        reader.finish()
    finally:
        stream.close()


def look(opened: Open, path: str, *, follow: bool) -> dict[str, Any] | None:
    """What is at *path* in the sandbox: name, type (a letter of ls), mode, size, uid, gid, mtimeNs, target; None when nothing is."""
    lines, code, problem = _collect(opened(path, do="stat", follow=follow))
    if code == 0:
        found: dict[str, Any] = json.loads(lines)
        return found
    if "no such file" in problem or "not a directory" in problem:
        return None
    raise CopyFailed(problem.strip() or f"{path} cannot be looked at")


def list_files(opened: Open, path: str) -> tuple[dict[str, Any], ...]:
    """What is in a directory of the sandbox, as `look` has it. Raises CopyFailed."""
    lines, code, problem = _collect(opened(path, do="list"))
    if code != 0:
        raise CopyFailed(problem.strip() or f"{path} cannot be listed")
    return tuple(json.loads(line) for line in lines.splitlines())


class Reader(io.RawIOBase):
    """The bytes of a stream's standard output; what comes on standard error is a warning each line."""

    def __init__(self, stream: Stream, warn: archives.Warn) -> None:
        super().__init__()
        self._stream = stream
        self._warn = warn
        self._rest = b""
        self._problems: list[str] = []

    def read(self, size: int = -1) -> bytes:
        """Some bytes, at most *size* of them; none at the end."""
        while not self._rest:
            piece = self._stream.receive()
            if piece is None:
                return b""
            if piece[0] == _STDOUT:
                self._rest = piece[1]
            else:
                self._problems += piece[1].decode("utf-8", "backslashreplace").splitlines()
        data, self._rest = (self._rest, b"") if size < 0 or size >= len(self._rest) else (self._rest[:size], self._rest[size:])
        return data

    def finish(self) -> None:
        """Read to the end. Raises CopyFailed when not all of it could be read."""
        while self.read():
            pass
        _tell(self._problems, self._warn, self._stream)


def _read_answers(stream: Stream, warn: archives.Warn) -> None:
    with contextlib.suppress(AgentUnavailable):  # the end is missing then, which is an answer too
        while (piece := stream.receive()) is not None:
            for line in piece[1].decode("utf-8", "backslashreplace").splitlines():
                warn(line)


def _tell(problems: list[str], warn: archives.Warn, stream: Stream) -> None:
    end = stream.end
    if end is not None and end.exit_code == 1 and problems:
        raise CopyFailed(problems[-1])
    for problem in problems:
        warn(problem)
    _check_end(stream)


def _check_end(stream: Stream) -> None:
    end = stream.end
    if end is None or end.exit_code is None:
        raise CopyFailed("the copy broke off", hint="what arrived of it is there; repeat it")
    if end.exit_code == 2:
        raise CopyFailed("not everything could be copied; see above")
    if end.exit_code:
        raise CopyFailed("the copy failed in the sandbox" + (f" ({end.signal}: its memory limit?)" if end.signal else ""))


def _collect(stream: Stream) -> tuple[str, int | None, str]:
    pieces: dict[int, bytes] = {}
    try:
        while (piece := stream.receive()) is not None:
            pieces[piece[0]] = pieces.get(piece[0], b"") + piece[1]
    finally:
        stream.close()
    code = stream.end.exit_code if stream.end is not None else None
    return pieces.get(_STDOUT, b"").decode(), code, pieces.get(_STDERR, b"").decode("utf-8", "backslashreplace")


def _kind(found: dict[str, Any] | None) -> str | None:
    return None if found is None else str(found["type"])
