"""The runtime directory must be memory: a reboot has to empty it, and a launch must not wait for a disk's journal.

Where /run is a tmpfs, as on most systems, nothing is to do; elsewhere a small tmpfs of our own goes over the directory.
"""

from __future__ import annotations

import os

from skerry_node.kernel import syscalls

_OPTIONS = b"mode=0700,size=256m"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def ensure_memory(run_dir: str) -> None:
    """Have *run_dir* on a filesystem in memory. Needs CAP_SYS_ADMIN when it is not yet."""
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    if find_filesystem(run_dir) in _IN_MEMORY:
        return
    target = os.fsencode(run_dir)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount(b"skerry-run", target, b"tmpfs", flags=flags, data=_OPTIONS)
    syscalls.mount(b"none", target, None, flags=syscalls.MS_PRIVATE)


def remove_memory(run_dir: str) -> None:
    """Unmount what `ensure_memory` mounted; nothing there is fine."""
    while os.path.ismount(run_dir):
        syscalls.umount(os.fsencode(run_dir))


def find_filesystem(path: str, mountinfo: str = "/proc/self/mountinfo") -> str:
    """The type of the filesystem that *path* lies on (proc_pid_mountinfo(5)): that of the deepest, latest mount above it."""
    wanted, best, kind = os.path.realpath(path), "", ""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            point = fields[4]
            is_above = wanted == point or wanted.startswith(point.rstrip("/") + "/")
            if is_above and len(point) >= len(best):
                best, kind = point, fields[fields.index("-") + 1]
    return kind
