"""What the kernel tells of one sandbox beyond what is scraped, on request (Documentation/admin-guide/cgroup-v2.rst, accounting/psi.rst)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from skerry_node.cgroup import group, hierarchy

RESOURCES = ("cpu", "memory", "io")
"""Those that pressure is kept of."""
_UNKNOWN = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
"""What a file answers that this kernel, or its command line, does without."""


@dataclass(frozen=True, slots=True)
class Transfers:
    """Bytes and operations of block devices since the group was made."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """Per cent of the last 10, 60 and 300 seconds in which tasks waited, and seconds since the group was made."""

    average_10: float
    average_60: float
    average_300: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Details:
    """Current bytes; None where there is no limit, or this kernel does not count."""

    cache_bytes: int
    swap_bytes: int | None
    limit_bytes: int | None
    transfers: Transfers | None = None
    pressure: Mapping[str, Mapping[str, Stall]] = field(default_factory=dict)
    """By resource, then `some` or `full`: some of its tasks waited, or all at once. Empty on version 1, which keeps none."""


def read_details(found: group.Group) -> Details:
    """Of *found*. Raises FileNotFoundError when it has vanished."""
    limits = found.read_limits()
    memory = dict(line.split() for line in found.read("memory", "memory.stat").splitlines())
    limit = limits.memory_bytes if limits is not None else None
    if found.version == 1:
        swap = memory.get("total_swap")
        return Details(
            cache_bytes=int(memory["total_cache"]),
            swap_bytes=None if swap is None else int(swap),
            limit_bytes=limit,
            transfers=_read_blkio(found),
        )
    swap = _read_optional(found, "memory", "memory.swap.current")
    io = _read_optional(found, "cpu", "io.stat")
    texts = {name: _read_optional(found, "cpu", f"{name}.pressure") for name in RESOURCES}
    return Details(
        cache_bytes=int(memory["file"]),
        swap_bytes=None if swap is None else int(swap),
        limit_bytes=limit,
        transfers=None if io is None else parse_transfers(io),
        pressure={name: parse_pressure(text) for name, text in texts.items() if text},
    )


def _read_blkio(found: group.Group) -> Transfers | None:
    """Block devices are counted by a hierarchy of their own on version 1, that only sandboxes whose devices are limited join."""
    if hierarchy.BLKIO not in found.paths:
        return None
    moved, done = (_read_optional(found, hierarchy.BLKIO, f"blkio.throttle.io_{what}_recursive") for what in ("service_bytes", "serviced"))
    return None if moved is None or done is None else parse_blkio(moved, done)


def parse_blkio(moved: str, done: str) -> Transfers:
    """The sums over the devices of bytes *moved* and of operations *done*: lines as `8:0 Read 4096` (admin-guide/cgroup-v1/blkio-controller.rst)."""
    sums = {"Read": [0, 0], "Write": [0, 0]}
    for at, text in enumerate((moved, done)):
        for line in text.splitlines():
            _, *words = line.split()
            if len(words) == 2 and words[0] in sums:
                sums[words[0]][at] += int(words[1])
    return Transfers(read_bytes=sums["Read"][0], write_bytes=sums["Write"][0], reads=sums["Read"][1], writes=sums["Write"][1])


def parse_transfers(text: str) -> Transfers:
    """The sum over the devices of io.stat. A line may be a device's number alone."""
    sums = dict.fromkeys(("rbytes", "wbytes", "rios", "wios"), 0)
    for line in text.splitlines():
        for name, value in _pairs(line.split()[1:]).items():
            if name in sums:
                sums[name] += int(value)
    return Transfers(read_bytes=sums["rbytes"], write_bytes=sums["wbytes"], reads=sums["rios"], writes=sums["wios"])


def parse_pressure(text: str) -> Mapping[str, Stall]:
    """Lines as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; the total is in microseconds."""
    found = {}
    for line in text.splitlines():
        kind, *words = line.split()
        values = _pairs(words)
        found[kind] = Stall(float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"]) / 1e6)
    return found


def _pairs(words: list[str]) -> dict[str, str]:
    return {name: value for name, equals, value in (word.partition("=") for word in words) if equals}


def _read_optional(found: group.Group, controller: str, name: str) -> str | None:
    try:
        return found.read(controller, name)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        raise
