"""Makes orphans of a test session its own: they are reaped at once, and they can be told from the machine's other processes.

The first process of a container is often no init (the one of our CI machines leaves zombies for seconds), and a test that waits for a dead
process's pid to vanish would wait with it. Reaping inside pytest itself would steal the exit codes of its own children; so pytest goes on in
a child, and the process that was started stays above it as subreaper and nothing else.

`python -m tests.harness.subreaper ARGUMENTS` is python with these arguments below such a process: how lanes.py starts pytest's workers, whose
threads run before any conftest could fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)
_ROOT = "SKERRY_TEST_ROOT"
_root: list[int] = []


def adopt_orphans() -> None:
    """Put this process below a subreaper, once. Call it before any thread starts: the caller goes on in a forked child.

    The parent tells the child to end when it is told, ends as the child ends, and exits with its code.
    """
    if _root:
        return
    given = os.environ.pop(_ROOT, None)
    if given is not None and int(given) == os.getppid():
        signal.signal(signal.SIGTERM, _interrupt)
        _root.append(int(given))
        return
    parent = os.getpid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        _reap_until(child)
    _prctl(_PR_SET_CHILD_SUBREAPER, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, _interrupt)
    _root.append(parent)


def _interrupt(_: int, __: FrameType | None) -> None:
    """As Ctrl-C: pytest ends its fixtures then. At the signal's default it would leave everything behind."""
    raise KeyboardInterrupt


def root_pid() -> int:
    """The process below which everything is that this session started, orphans too once `adopt_orphans` was called."""
    return _root[0] if _root else os.getpid()


def _reap_until(child: int) -> None:
    """Wait for everything until *child* ends, then end in its way. Never returns."""

    def forward(_: int, __: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child by itself, as a member of the same process group
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main() -> None:
    """Start python with our arguments below this process, and end as it ends."""
    parent = os.getpid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        os.close(0)  # the child's alone: whoever waits for the end of its output waits for nobody else
        os.close(1)
        _reap_until(child)
    _prctl(_PR_SET_CHILD_SUBREAPER, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ[_ROOT] = str(parent)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main()
