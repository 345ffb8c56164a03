"""Quick moves into a cgroup. Without this, the first move after a quiet moment waits for an RCU grace period, 8 to 20 ms.

The kernel has a switch for it, `favordynmods`, a mount option of any cgroup hierarchy that acts on all of them while that one exists
(kernel/cgroup/cgroup.c, cgroup_favor_dynmods). Ours is a hierarchy of our own without controllers: nobody else's mount is touched, and it goes
with the keeper. The price is that fork and exit on this machine are slower by some nanoseconds.
"""

from __future__ import annotations

import os

from skerry_node.kernel import syscalls


def hold() -> int | None:
    """Switch quick moves on for as long as the returned fd is open; None where the kernel has no such switch (before 6.0)."""
    try:
        context = syscalls.fsopen(b"cgroup")
    except OSError:  # a kernel without version 1
        return None
    try:
        syscalls.fs_set(context, b"none")
        syscalls.fs_set(context, b"name", b"skerry")
        syscalls.fs_set(context, b"favordynmods")
        syscalls.fs_create(context)
        return syscalls.fsmount(context)
    except OSError:
        return None
    finally:
        os.close(context)
