"""What sessions side by side on one machine must not share: marks in names, ranges of addresses, ports.

A mark is a file whose content is the pid of the session's root, so that every other session can tell whose things it names. Ranges and ports
are locked bytes of a file (fcntl(2)): the kernel lets go of them when the process ends, however it does.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import secrets
import socket

from tests.harness import subreaper

DIRECTORY = "/run/lock/skerry-tests"
_MARKS = os.path.join(DIRECTORY, "marks")
_MARK_LENGTH = 5  # with it an interface's name has room for a slot: skMARK-1023 is 11 of 15 bytes
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_RANGES = range(90, 250)  # 10.x.0.0/16
_PORTS = range(20_000, 30_000)  # below the range from which the kernel takes ports for whoever does not care (ip_local_port_range)
_TRIES = 2_000


def open_all() -> None:
    """Open what is held open for the life of this process, before anyone counts its files."""
    _open("ranges")
    _open("ports")
    for mark, root in read_marks().items():
        if not os.path.exists(f"/proc/{root}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(_MARKS, mark))


def claim_mark(prefix: str) -> str:
    """Five characters that start with *prefix*'s first two, and that no other session has; until this process ends."""
    os.makedirs(_MARKS, exist_ok=True)
    while True:
        mark = prefix[:2] + "".join(secrets.choice(_ALPHABET) for _ in range(_MARK_LENGTH - len(prefix[:2])))
        if os.path.exists(f"/run/skerry-{mark}"):  # of a session that was killed and left it
            continue
        try:
            with open(os.path.join(_MARKS, mark), "x", encoding="ascii") as file:
                file.write(str(subreaper.root_pid()))
        except FileExistsError:
            continue
        _mine().add(mark)
        return mark


def read_marks() -> dict[str, int]:
    """Every mark with the pid of the root of its session; 0 for one that is being written."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for mark in os.listdir(_MARKS):
            with contextlib.suppress(FileNotFoundError), open(os.path.join(_MARKS, mark), encoding="ascii") as file:
                found[mark] = int(file.read() or 0)
    return found


def claim_range() -> int:
    """The second byte of a range 10.x.0.0/16 that no other session has and no route leads to. `release_range` gives it back."""
    for _ in range(_TRIES):
        second = secrets.choice(_RANGES)
        if not _is_routed(second) and _lock("ranges", second):
            return second
    raise RuntimeError("every range of addresses is taken: `ip route` says by whom")


def release_range(second: int) -> None:
    """Let another session have it."""
    _taken("ranges").discard(second)
    fcntl.lockf(_open("ranges"), fcntl.LOCK_UN, 1, second)


def claim_port() -> int:
    """A port of 127.0.0.1 that is free now and that nobody else is given, neither by this module nor by the kernel."""
    for _ in range(_TRIES):
        port = secrets.choice(_PORTS)
        if _lock("ports", port) and _is_free(port):
            return port
    raise RuntimeError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what waits after a close is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_routed(second: int) -> bool:
    with open("/proc/net/route", encoding="ascii") as file:
        return any(line.split()[1].endswith(f"{second:02X}0A") for line in file)  # little-endian, in hexadecimal


def _lock(name: str, byte: int) -> bool:
    """Whether the byte is now ours and was not; a process does not shut itself out by fcntl's locks."""
    if byte in _taken(name):
        return False
    try:
        fcntl.lockf(_open(name), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError:
        return False
    _taken(name).add(byte)
    return True


@functools.cache
def _open(name: str) -> int:
    """One fd for the life of the process: closing any fd of the file would give up all its locks (fcntl(2))."""
    os.makedirs(DIRECTORY, exist_ok=True)
    return os.open(os.path.join(DIRECTORY, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@functools.cache
def _taken(name: str) -> set[int]:
    return set()


@functools.cache
def _mine() -> set[str]:
    """Our marks; their files go when this process ends."""
    mine: set[str] = set()
    owner = os.getpid()

    def let_go() -> None:
        for mark in mine if os.getpid() == owner else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(_MARKS, mark))

    atexit.register(let_go)
    return mine
