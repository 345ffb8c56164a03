"""What the kernel counted for one sandbox. Memory limits are rounded to pages by the kernel; counts are cumulative."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from skerry_node.cgroup import group


@dataclass(frozen=True, slots=True)
class Stats:
    """Cumulative seconds and counts, current bytes and processes; None where this kernel does not count."""

    cpu_seconds: float
    throttled_seconds: float
    memory_bytes: int
    memory_working_set_bytes: int
    memory_peak_bytes: int | None
    oom_kills: int
    pids: int
    pids_refused: int


def read_stats(found: group.Group) -> Stats:
    """The counters of *found*. Raises FileNotFoundError when it has vanished."""
    return _read_v2(found) if found.version == 2 else _read_v1(found)


def read_cpu_seconds(found: group.Group) -> float:
    """What *found* used of CPUs up to now. Raises FileNotFoundError when it has vanished."""
    if found.version == 2:
        return _pairs(found.read("cpu", "cpu.stat"))["usage_usec"] / 1e6
    return int(found.read("cpuacct" if "cpuacct" in found.paths else "cpu", "cpuacct.usage")) / 1e9


def _read_v2(found: group.Group) -> Stats:
    cpu = _pairs(found.read("cpu", "cpu.stat"))
    used = int(found.read("memory", "memory.current"))
    peak = None
    with contextlib.suppress(FileNotFoundError):  # since 5.19
        peak = int(found.read("memory", "memory.peak"))
    return Stats(
        cpu_seconds=cpu["usage_usec"] / 1e6,
        throttled_seconds=cpu.get("throttled_usec", 0) / 1e6,
        memory_bytes=used,
        memory_working_set_bytes=max(used - _pairs(found.read("memory", "memory.stat"))["inactive_file"], 0),
        memory_peak_bytes=peak,
        oom_kills=_pairs(found.read("memory", "memory.events"))["oom_kill"],
        pids=int(found.read("pids", "pids.current")),
        pids_refused=_pairs(found.read("pids", "pids.events")).get("max", 0),
    )


def _read_v1(found: group.Group) -> Stats:
    used = int(found.read("memory", "memory.usage_in_bytes"))
    cpu = "cpuacct" if "cpuacct" in found.paths else "cpu"
    return Stats(
        cpu_seconds=int(found.read(cpu, "cpuacct.usage")) / 1e9,
        throttled_seconds=_pairs(found.read("cpu", "cpu.stat")).get("throttled_time", 0) / 1e9,
        memory_bytes=used,
        memory_working_set_bytes=max(used - _pairs(found.read("memory", "memory.stat"))["total_inactive_file"], 0),
        memory_peak_bytes=int(found.read("memory", "memory.max_usage_in_bytes")),
        oom_kills=_pairs(found.read("memory", "memory.oom_control")).get("oom_kill", 0),
        pids=int(found.read("pids", "pids.current")),
        pids_refused=_pairs(found.read("pids", "pids.events")).get("max", 0),
    )


def _pairs(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}
