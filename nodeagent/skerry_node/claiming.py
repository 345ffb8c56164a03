"""One agent for one state directory: a lock that ends with the process, whatever ends it."""

from __future__ import annotations

import fcntl
import os

from skerry_node import errors

_NAME = "agent.lock"


def claim(state_dir: str) -> int:
    """Hold *state_dir* for this process: an fd to keep open. Raises errors.StateDirectoryTaken.

    The Lease cannot tell two agents apart that have one identity, which lies in the state directory; nor has standalone any.
    """
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(state_dir, _NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise errors.StateDirectoryTaken(
            f"another agent, process {holder or 'unknown'}, has the state directory {state_dir}: end it, or give this one its own --state-dir"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
