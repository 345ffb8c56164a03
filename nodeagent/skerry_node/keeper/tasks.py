"""What a child of the keeper does inside a sandbox in place of a program: our own code, confined as any program of the sandbox is."""

from __future__ import annotations

import os
from collections.abc import Callable

TASKS: dict[str, Callable[[tuple[str, ...]], int]] = {}
"""By name: each takes the entry's arguments, reads fd 0, writes fds 1 and 2, and returns an exit code."""


def perform(name: str, arguments: tuple[str, ...], status_fd: int) -> int:
    """Do task *name*; the exit code comes back. What goes wrong is told on standard error."""
    os.close(status_fd)  # as an execve would: the task has begun
    try:
        return TASKS[name](arguments)
    except OSError as error:
        os.write(2, describe(error))
        return 1


def describe(error: OSError) -> bytes:
    """One line for people: what was being done to which file, and what the kernel said."""
    name = error.filename if isinstance(error.filename, bytes) else os.fsencode(str(error.filename or ""))
    text = os.strerror(error.errno or 0).lower().encode()
    return (name + b": " if name else b"") + text + b"\n"
