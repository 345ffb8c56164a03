"""The directory of manifests: which files are there and what they say, read again only when they changed."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

from skerry_node.standalone import documents, errors

SUFFIXES = (".yaml", ".yml", ".json")

Content = tuple[documents.Document | documents.Entries | documents.Problem, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    signature: tuple[int, int, int]
    settled: bool
    content: Content


class Directory:
    """Reads *path*; hidden files and other suffixes are not manifests, so editors' temporary files do not count."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: dict[str, _Seen] = {}
        self._changed_ns = 0
        """When the directory itself changed, as far as we have looked or done it."""

    def read(self) -> dict[str, Content]:
        """File name to content, in name order. Raises Unavailable when the directory itself cannot be read."""
        try:
            self._changed_ns = os.stat(self.path).st_mtime_ns
            found = sorted(name for name in os.listdir(self.path) if name.endswith(SUFFIXES) and name[0] != ".")
        except OSError as error:
            raise errors.Unavailable(f"cannot read the manifest directory {self.path}: {error.strerror}") from error
        self._seen = {name: seen for name in found if (seen := self._look(name)) is not None}
        return {name: seen.content for name, seen in self._seen.items()}

    def read_one(self, name: str) -> Content:
        """The same of one file; nothing when there is none."""
        if (seen := self._look(name)) is None:
            return ()
        self._seen[name] = seen
        return seen.content

    def is_unchanged(self, *names: str) -> bool:
        """Whether, since the last look, nobody but us made or removed a file, and nobody wrote one of *names*."""
        try:
            if os.stat(self.path).st_mtime_ns != self._changed_ns:
                return False
            return all((seen := self._seen.get(name)) is not None and self._look(name) is seen for name in names)
        except OSError:
            return False

    def text(self, name: str) -> str:
        """One file's text. Raises Unavailable."""
        try:
            return _read(os.path.join(self.path, name)).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.Unavailable(f"cannot read the manifest {name}: {error}") from error

    def create(self, name: str, text: str) -> None:
        """A new file, whole or not at all. Raises AlreadyExists, Unavailable."""
        was_known = self.is_unchanged()
        temporary = self._write(name, text)
        try:
            os.link(temporary, os.path.join(self.path, name))
        except FileExistsError:
            raise errors.AlreadyExists(f"the file {name} exists in {self.path}") from None
        except OSError as error:
            raise errors.Unavailable(f"cannot write the manifest {name}: {error.strerror}") from error
        finally:
            os.unlink(temporary)
            self._own_change(was_known=was_known)

    def replace(self, name: str, text: str) -> None:
        """The file with new text, whole or not at all. Raises Unavailable."""
        try:
            os.rename(self._write(name, text), os.path.join(self.path, name))
        except OSError as error:
            raise errors.Unavailable(f"cannot write the manifest {name}: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """No such file afterwards. Raises Unavailable."""
        was_known = self.is_unchanged()
        try:
            os.unlink(os.path.join(self.path, name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise errors.Unavailable(f"cannot remove the manifest {name}: {error.strerror}") from error
        self._own_change(was_known=was_known)

    def _own_change(self, *, was_known: bool) -> None:
        """What we did ourselves is no reason to look; a change of somebody else's in the same moment is seen by the next poll."""
        if was_known:
            with contextlib.suppress(OSError):
                self._changed_ns = os.stat(self.path).st_mtime_ns

    def _write(self, name: str, text: str) -> str:
        temporary = os.path.join(self.path, f".{name}.new")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise errors.Unavailable(f"cannot write in {self.path}: {error.strerror}") from error
        return temporary

    def _look(self, name: str) -> _Seen | None:
        """What the file says; one that changed is read once more next time, for writes within one tick of its mtime."""
        path = os.path.join(self.path, name)
        old = self._seen.get(name)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return None
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            if old is not None and old.signature == signature and old.settled:
                return old
            content = documents.parse(_read(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            return _Seen((0, 0, 0), settled=False, content=(documents.Problem(None, f"cannot be read: {error.strerror}"),))
        return _Seen(signature, settled=old is not None and old.signature == signature, content=content)


def _read(path: str) -> bytes:
    """At most one byte more than a manifest may have; never blocks on a pipe that took the file's place."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return file.read(documents.MAX_BYTES + 1)
