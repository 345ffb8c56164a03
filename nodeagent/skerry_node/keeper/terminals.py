"""A pty of the sandbox's own devpts as the controlling terminal of a session. Runs in the child, inside the sandbox's root; no name is looked up."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

from skerry_node.keeper import identity, program
from skerry_node.kernel import syscalls

_TIOCGPTPEER = 0x5441
"""_IO('T', 0x41): the other end of a pty by its master alone, so that no path is walked (ioctl_tty(2), 4.13)."""
_TIOCSPTLCK = 0x40045431
"""_IOW('T', 0x31, int), which the module termios lacks."""
_PTMX = os.makedev(5, 2)
_WINDOW = struct.Struct("4H")


def open_pair(who: identity.Identity, *, columns: int, rows: int) -> tuple[int, int]:
    """The master, and the terminal itself, which belongs to *who* and is the caller's controlling terminal. Raises OSError, StepFailed.

    The caller leads a session that has none yet.
    """
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    strict = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
    master = syscalls.openat2(root, b"dev/pts/ptmx", flags=os.O_RDWR | os.O_NOCTTY, resolve=strict)
    os.close(root)
    found = os.fstat(master)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _PTMX:
        raise program.StepFailed("tty", "the sandbox has no /dev/pts/ptmx")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    terminal = open_peer(master)
    os.fchown(terminal, who.uid, -1)
    fcntl.ioctl(master, termios.TIOCSWINSZ, _WINDOW.pack(rows, columns, 0, 0))
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    return master, terminal


def open_peer(master: int) -> int:
    """Another fd of the terminal whose master this is; in any mount namespace."""
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def become(terminal: int) -> None:
    """Have *terminal* as input, output and error; the fd itself is closed."""
    for number in range(3):
        os.dup2(terminal, number)
    os.close(terminal)
