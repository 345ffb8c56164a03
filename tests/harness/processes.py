"""Child processes that die with their parent, log to a file, and are always waited for. Standard library only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

_LEASH = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"  # PR_SET_PDEATHSIG, SIGKILL: prctl(2); kept over execve of a program without set-user-ID
    "if os.getppid() != int(sys.argv[1]): sys.exit('the parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class ProcessFailed(Exception):
    """A process ended early or never became ready; the message ends with its last lines."""


class Process:
    """One program with an absolute path, started at once; its output goes to *log_path*, appended.

    The kernel kills it when the *thread* that started it ends: start it from the main thread.
    """

    def __init__(self, argv: Sequence[str], *, log_path: str, env: Mapping[str, str] | None = None, leashed: bool = True) -> None:
        self.name = os.path.basename(argv[0])
        self.log_path = log_path
        leash = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid())] if leashed else []
        with open(log_path, "ab") as log:
            self._popen = subprocess.Popen(
                [*leash, *argv], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pid = self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL and wait."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """End it with SIGTERM, with SIGKILL after *timeout_seconds*, and wait."""
        self._popen.send_signal(signal.SIGCONT)
        self._popen.terminate()
        try:
            self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def require_running(self, what: str) -> None:
        """Raise ProcessFailed when it has ended, while one waits for *what*."""
        if not self.is_running:
            raise ProcessFailed(f"{self.name} ended with {self._popen.returncode} before {what}:\n{tail(self.log_path)}")


def tail(path: str, lines: int = 15) -> str:
    """The last lines of a log."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-lines:])
