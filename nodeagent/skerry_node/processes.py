"""The processes of a sandbox as /proc shows them. Their names and arguments are theirs to choose: text for people, bounded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

MAX_PROCESSES, MAX_COMMAND_BYTES = 4_096, 4_096
_TICKS = os.sysconf("SC_CLK_TCK")


def read(pids: Iterable[int], *, id_base: int) -> list[dict[str, Any]]:
    """One entry for each of *pids* that is still there: its pid here and inside, user inside, state, seconds of CPU, resident bytes, command."""
    found = []
    for pid in sorted(pids)[:MAX_PROCESSES]:
        try:
            found.append(_read(pid, id_base))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _read(pid: int, id_base: int) -> dict[str, Any]:
    status = dict(line.split(":", 1) for line in _file(pid, "status").splitlines() if ":" in line)
    counted = _file(pid, "stat").rpartition(")")[2].split()
    command = _file(pid, "cmdline").rstrip("\0").replace("\0", " ") or f"[{status['Name'].strip()}]"
    return {
        "pid": pid,
        "pidInside": int(status["NSpid"].split()[-1]),
        "parentPid": int(status["PPid"]),
        "user": int(status["Uid"].split()[1]) - id_base,
        "state": status["State"].split()[0],
        "cpuSeconds": (int(counted[11]) + int(counted[12])) / _TICKS,
        "residentBytes": int(status.get("VmRSS", "0").split()[0]) * 1024,
        "command": command[:MAX_COMMAND_BYTES],
    }


def _file(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read(64 << 10).decode("utf-8", "backslashreplace")
