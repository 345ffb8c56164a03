"""Which layers are known to be fine since boot: written by this agent or the one before, or looked at."""

from __future__ import annotations

import contextlib
import os


class Verified:
    """Layers that are known to be fine since boot, by file name; kept in a file in memory for the next agent, once `load` has named it."""

    def __init__(self, directory_fd: int) -> None:
        self._directory_fd = directory_fd
        self._known: set[str] = set()
        self._path: str | None = None

    def has(self, name: str) -> bool:
        """From memory: cheap."""
        return name in self._known

    def add(self, name: str) -> None:
        """It was just written, or looked at."""
        if name in self._known:
            return
        self._known.add(name)
        if self._path is not None:
            with contextlib.suppress(OSError), open(self._path, "a", encoding="ascii") as file:
                file.write(self._line(name))

    def discard(self, name: str) -> None:
        """It is gone; a file of that name will be another."""
        self._known.discard(name)

    def load(self, path: str) -> None:
        """Believe what an earlier agent of this boot wrote to *path*, of files that have not changed since; go on writing there."""
        self._path = path
        lines: set[str] = set()
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError), open(path, encoding="ascii") as file:
            lines = set(file)
        for name in {line.split(" ", 1)[0] for line in lines}:
            with contextlib.suppress(OSError):
                if self._line(name) in lines:
                    self._known.add(name)
        with open(path + ".tmp", "w", encoding="ascii") as file:
            file.writelines(self._line(name) for name in sorted(self._known))
        os.rename(path + ".tmp", path)

    def _line(self, name: str) -> str:
        info = os.stat(name, dir_fd=self._directory_fd, follow_symlinks=False)
        return f"{name} {info.st_ino} {info.st_size} {info.st_ctime_ns}\n"
