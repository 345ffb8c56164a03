"""What a sandbox uses, as plain data for people who ask: counters of its control groups and of its link."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from skerry_node.cgroup import details, group, stats
from skerry_node.network import traffic


def read_usage(found: group.Group, link: str | None, *, disk_bytes: int | None) -> Mapping[str, Any]:
    """Of the sandbox with group *found* and *link* on the host, now; raises OSError when it has vanished.

    No walk over files: it takes under 1 ms. *disk_bytes* is what the last look at its writable layer found, None before the first.
    """
    moved = traffic.read_traffic(link) if link is not None else None
    return render_usage(stats.read_stats(found), details.read_details(found), moved, disk_bytes=disk_bytes)


def render_usage(read: stats.Stats, more: details.Details, moved: traffic.Traffic | None, *, disk_bytes: int | None) -> Mapping[str, Any]:
    """The agent's answer for `stats`: bytes, counts and seconds; null where this kernel does not count."""
    return {
        "cpu": {"usageSeconds": read.cpu_seconds, "throttledSeconds": read.throttled_seconds},
        "memory": {
            "usageBytes": read.memory_bytes, "workingSetBytes": read.memory_working_set_bytes, "peakBytes": read.memory_peak_bytes,
            "cacheBytes": more.cache_bytes, "swapBytes": more.swap_bytes, "limitBytes": more.limit_bytes, "oomKills": read.oom_kills,
        },
        "pids": {"current": read.pids, "refused": read.pids_refused},
        "io": _fields(more.transfers),
        "network": _fields(moved),
        "disk": None if disk_bytes is None else {"usedBytes": disk_bytes},
        "pressure": {name: {kind: _stall(each) for kind, each in stalls.items()} for name, stalls in more.pressure.items()} or None,
    }  # fmt: skip


def _fields(value: Any) -> dict[str, int] | None:
    """A dataclass of counters with its names in camel case."""
    return None if value is None else {_camel(name): number for name, number in dataclasses.asdict(value).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _stall(each: details.Stall) -> dict[str, float]:
    return {"avg10": each.average_10, "avg60": each.average_60, "avg300": each.average_300, "totalSeconds": each.total_seconds}
