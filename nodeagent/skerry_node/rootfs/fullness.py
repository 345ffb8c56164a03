"""Whether a filesystem that holds a sandbox to a size is full: what its program met when it ended is still there to be seen (statvfs(3))."""

from __future__ import annotations

import os

_SLACK_BYTES = 65_536
"""Less than this free is full: a file of any use no longer fits."""
_SLACK_SHARE = 0.01


def is_full(path: str) -> bool:
    """Whether nothing more can be written or made at *path*; False where there is nothing. Blocks that only root may use do not count as free."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return free < min(_SLACK_BYTES, total * _SLACK_SHARE) or (found.f_files > 0 and found.f_favail == 0)


def is_bounded(path: str, *, within: str) -> bool:
    """Whether what lies at *path* has a size of its own: a filesystem, or a project quota, other than that of *within*."""
    try:
        found, around = os.statvfs(path), os.statvfs(within)
    except OSError:
        return False
    return (found.f_blocks * found.f_frsize, found.f_files) != (around.f_blocks * around.f_frsize, around.f_files)
