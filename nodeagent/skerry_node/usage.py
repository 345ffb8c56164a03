"""What a sandbox uses, as plain data for people who ask: counters of its control groups and of its link, beside what it may use at most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api.sandbox import SandboxSpec
from skerry_node.cgroup import details, group, stats
from skerry_node.network import traffic


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent counted itself: bytes in the writable layer at the last look, and packets refused; None where nothing was."""

    disk_bytes: int | None = None
    denied_packets: int | None = None


def read_usage(found: group.Group, link: str | None, *, known: Known, spec: SandboxSpec) -> Mapping[str, Any]:
    """Of the sandbox with group *found* and *link* on the host, now; raises OSError when it has vanished.

    No walk over files: it takes under 1 ms.
    """
    moved = traffic.read_traffic(link) if link is not None else None
    return render_usage(stats.read_stats(found), details.read_details(found), moved, known=known, spec=spec)


def render_usage(read: stats.Stats, more: details.Details, moved: traffic.Traffic | None, *, known: Known, spec: SandboxSpec) -> Mapping[str, Any]:
    """The agent's answer for `stats`: bytes, counts and seconds, limits as the manifest has them; null where nothing counts, or limits."""
    network = None
    if (counted := _fields(moved)) is not None:
        bandwidth = spec.network.bandwidth
        limits = {"ingressBitsPerSecond": bandwidth.ingress, "egressBitsPerSecond": bandwidth.egress}
        network = {**counted, "deniedPackets": known.denied_packets, **limits}
    return {
        "cpu": {"usageSeconds": read.cpu_seconds, "throttledSeconds": read.throttled_seconds},
        "memory": {
            "usageBytes": read.memory_bytes, "workingSetBytes": read.memory_working_set_bytes, "peakBytes": read.memory_peak_bytes,
            "cacheBytes": more.cache_bytes, "swapBytes": more.swap_bytes, "limitBytes": more.limit_bytes, "oomKills": read.oom_kills,
        },
        "pids": {"current": read.pids, "refused": read.pids_refused},
        "io": _fields(more.transfers),
        "network": network,
        "disk": None if known.disk_bytes is None else {"usedBytes": known.disk_bytes, "limitBytes": spec.resources.limits.disk_bytes},
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
