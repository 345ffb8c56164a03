"""A real terminal: tmux on a socket of its own, keys in, what a person would see out."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

_SECONDS = 180.0


class Terminal:
    """A pane with one program in it."""

    def __init__(self, socket: str, environment: Mapping[str, str]) -> None:
        self._socket = socket
        self._environment = {**environment, "LC_ALL": "C.UTF-8"}

    def run(self, *words: str) -> str:
        """`tmux WORDS`; what it prints."""
        command = ["tmux", "-u", "-S", self._socket, "-f", "/dev/null", *words]
        return subprocess.run(command, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout

    def press(self, *keys: str) -> None:
        """Keys by tmux's names; anything else is typed as it stands."""
        self.run("send-keys", "-t", "0", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """As a person drags the window."""
        self.run("resize-window", "-t", "0", "-x", str(columns), "-y", str(rows))

    def screen(self) -> list[str]:
        """The lines that are seen, without the spaces at their ends."""
        return [line.rstrip() for line in self.run("capture-pane", "-p", "-t", "0").split("\n")]

    def see(self, is_there: Callable[[list[str]], bool]) -> list[str]:
        """The screen once *is_there* holds of it. Raises AssertionError with the screen when it never does."""
        deadline = time.monotonic() + _SECONDS
        while not is_there(found := self.screen()):
            assert time.monotonic() < deadline, "\n".join(found)
            time.sleep(0.1)
        return found


@contextlib.contextmanager
def running(directory: str, *command: str, environment: Mapping[str, str], columns: int, rows: int) -> Iterator[Terminal]:
    """*command* in a pane; when it ends, the pane shows `ended-CODE`."""
    terminal = Terminal(os.path.join(directory, "tmux.sock"), environment)
    shell = f"{shlex.join(command)}; echo ended-$?; exec sleep 100000"
    terminal.run(
        "new-session", "-d", "-x", str(columns), "-y", str(rows), "sh", "-c", shell, ";",
        "set", "-g", "status", "off", ";", "set", "-g", "window-size", "manual",
    )  # fmt: skip
    try:
        terminal.resize(columns, rows)
        yield terminal
    finally:
        terminal.run("kill-server")
