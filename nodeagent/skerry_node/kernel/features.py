"""What this kernel and this process can do, asked once at start; what is missing is said with what to do about it."""

from __future__ import annotations

import os
import platform

from skerry_node.errors import Unsupported

OLDEST = (6, 1)
_FILESYSTEMS = ("overlay", "erofs", "tmpfs", "ext4")


def require() -> None:
    """Raise errors.Unsupported, naming everything that is missing."""
    missing = list(find_missing())
    if missing:
        raise Unsupported("; ".join(missing))


def find_missing() -> list[str]:
    """One sentence for each thing that sandboxes need and this machine lacks."""
    found = []
    if os.geteuid() != 0:
        found.append("root is needed to make namespaces and mounts; run it with sudo")
    version = kernel_version()
    if version < OLDEST:
        found.append(f"kernel {platform.release()} is too old; 6.1 is the oldest that works")
    with open("/proc/filesystems", encoding="ascii") as file:
        known = {line.split()[-1] for line in file}
    for name in _FILESYSTEMS:
        if name not in known and os.system(f"modprobe -q {name}") != 0:  # noqa: S605 - a name from the list above
            found.append(f"the kernel has no {name}; load it with `modprobe {name}`")
    if not os.path.exists("/proc/self/ns/user"):
        found.append("the kernel has no user namespaces (CONFIG_USER_NS)")
    return found


def kernel_version() -> tuple[int, int]:
    """Major and minor."""
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(character for character in minor if character.isdigit()))
