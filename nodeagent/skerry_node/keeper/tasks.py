"""What a child of the keeper does inside a sandbox in place of a program: our own code, confined as any program of the sandbox is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from skerry_node.keeper import packing, program, unpacking

TASKS: dict[str, Callable[[tuple[str, ...]], int]] = {
    "pack": packing.pack,
    "unpack": unpacking.unpack,
    "stat": packing.look,
    "list": packing.list_directory,
}
"""By name: each takes the entry's arguments, reads fd 0, writes fds 1 and 2, and returns an exit code."""
CONNECT = "connect"
"""Hands a connected socket to the keeper instead of reading and writing."""
_CONNECT_SECONDS = 5.0
LOOPBACK = ("127.0.0.1", "::1")


def perform(name: str, arguments: tuple[str, ...], status_fd: int) -> int:
    """Do task *name*; the exit code comes back. What goes wrong is told on standard error."""
    if name == CONNECT:
        return _connect(int(arguments[0]), status_fd)
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


def _connect(port: int, status_fd: int) -> int:
    """A TCP connection to *port* of the sandbox's own loopback. Raises StepFailed when nobody listens there."""
    failure: OSError | None = None
    for address in LOOPBACK:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
            made.settimeout(_CONNECT_SECONDS)
            made.connect((address, port))
        except OSError as error:
            failure = failure or error
            continue
        made.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        status = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=status_fd)
        socket.send_fds(status, [b"T"], [made.fileno()])
        return 0
    assert failure is not None
    raise program.StepFailed("port", f"nobody listens on port {port} in the sandbox: {os.strerror(failure.errno or 0).lower()}", reason="NoListener")
