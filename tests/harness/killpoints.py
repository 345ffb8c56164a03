"""Kill a program before each of its state-changing system calls, one run for each: strace's fault injection does it.

Source: strace(1), "Tampering": `-e inject=SET:signal=KILL:when=N`, where N counts the calls of each thread by itself.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence

CALLS = (
    "open,openat,openat2,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,truncate,ftruncate,"
    "write,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,fallocate,fchmod,fchmodat,fchown,fchownat,utimensat,utime,utimes,futimesat"
)
"""What changes a file or a directory, or may."""
_CHANGING_OPEN = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
_CALL = re.compile(r"(\d+)\s+(\w+)\(")
Point = tuple[str, int]
"""A call's name, and its number among the calls of that name in its thread."""


def find(command: Sequence[str], *, below: str, environment: Mapping[str, str], log: str) -> list[Point]:
    """Run it once; every call that changes something below the directory *below*, each once."""
    subprocess.run(["strace", "-f", "-y", "-qq", "-e", f"trace={CALLS}", "-o", log, *command], check=True, env=dict(environment))
    seen: Counter[tuple[str, str]] = Counter()
    points: dict[Point, None] = {}
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            found = _CALL.match(line)
            if found is None:
                continue
            thread, name = found.groups()
            seen[thread, name] += 1
            if below in line and (not name.startswith("open") or _CHANGING_OPEN.search(line)):
                points[name, seen[thread, name]] = None
    return list(points)


def run_killed(command: Sequence[str], point: Point, *, environment: Mapping[str, str]) -> bool:
    """Run it, killed before that call; whether anything was."""
    name, number = point
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}", *command],
        check=False, env=dict(environment), capture_output=True,
    )  # fmt: skip
    return done.returncode != 0
