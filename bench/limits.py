"""Limits held against hogs: rates over ten seconds beside what was asked for, changed live; what a disk limit costs; what a neighbour notices."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from bench.row import Row
from tests.harness import images, standalone
from tests.kernel.test_resize import patch

_SECONDS, _GIGABYTES, _EXECS = 10.0, 3, 20
_MEBIBYTE = 1 << 20
_RATE = 10 * _MEBIBYTE
_CPU = 400
_SPIN = "while :; do :; done"
_WRITE = "while :; do dd if=/dev/zero of=/f bs=256k count=4 oflag=direct conv=notrunc 2>/dev/null; echo; done"
_READ = (
    "dd if=/dev/zero of=/f bs=1M count=64 oflag=direct 2>/dev/null; "
    "while :; do dd if=/f of=/dev/null bs=256k count=4 iflag=direct 2>/dev/null; echo; done"
)
_FILL = "i=0; while [ $i -lt 5 ]; do rm -f /big; dd if=/dev/zero of=/big bs=1M count=1000 2>&1 | grep copied; i=$((i+1)); done"


def measure(directory: str) -> Iterable[Row]:
    """Percent of the limit for CPU and devices; MB/s with and without a disk limit; milliseconds of a neighbour's exec."""
    with standalone.running(directory, tag="bl", flags=("--shells=2",)) as agent:
        agent.client.import_image(images.busybox_layout(os.path.join(directory, "layout")))
        yield from _cpu(agent)
        yield from _devices(agent, "write", _WRITE)
        yield from _devices(agent, "read", _READ)
        yield from _disk(agent)
        yield from _neighbour(agent)


def _cpu(agent: Any) -> Iterator[Row]:
    with agent.sandbox("hog", "sh", "-c", f"{_SPIN} & {_SPIN}", **_limited(cpu=f"{_CPU}m")):
        for name, factor in (("as written", 1.0), ("half, live", 0.5), ("double, live", 2.0)):
            patch(agent, "hog", cpu=f"{int(_CPU * factor)}m")
            time.sleep(1.0)
            began, before = time.monotonic(), agent.client.usage("hog")["cpu"]["usageSeconds"]
            time.sleep(_SECONDS)
            used, seconds = agent.client.usage("hog")["cpu"]["usageSeconds"] - before, time.monotonic() - began
            yield Row("skerry", f"cpu, {name}, of the limit", "%", [100 * used / seconds / (_CPU * factor / 1000)])


def _devices(agent: Any, what: str, script: str) -> Iterator[Row]:
    key = f"{what}BytesPerSecond"
    for disk in (None, "256Mi"):
        held = {"disk": disk} if disk else {}
        with agent.sandbox("hog", "sh", "-c", script, **_limited(io={key: str(_RATE)}, **held)):
            for name, factor in (("as written", 1.0), ("half, live", 0.5), ("double, live", 2.0)):
                patch(agent, "hog", io={key: str(int(_RATE * factor))})
                _wait_for_line(agent)
                time.sleep(2.0)
                began, before = time.monotonic(), len(agent.output("hog"))
                time.sleep(_SECONDS)
                moved, seconds = (len(agent.output("hog")) - before) * _MEBIBYTE, time.monotonic() - began
                where = "own disk" if disk else "shared disk"
                yield Row("skerry", f"{what}, {where}, {name}, of the limit", "%", [100 * moved / seconds / (_RATE * factor)])


def _wait_for_line(agent: Any) -> None:
    before = len(agent.output("hog"))
    standalone.until(lambda: len(agent.output("hog")) > before)


def _disk(agent: Any) -> Iterator[Row]:
    speeds: dict[str, list[float]] = {"without a limit": [], "with a limit of 2 GiB": []}
    for _ in range(_GIGABYTES):
        for name, limits in (("without a limit", {}), ("with a limit of 2 GiB", {"disk": "2Gi"})):
            with agent.sandbox("writer", "sh", "-c", _FILL, **_limited(**limits)):
                agent.wait_end("writer")
                speeds[name] += [1000 * 1.048576 / float(text) for text in re.findall(r"copied, ([0-9.]+) seconds", agent.output("writer"))]
    for name, found in speeds.items():
        yield Row("skerry", f"1 GB written, {name}", "MB/s", found)


def _neighbour(agent: Any) -> Iterator[Row]:
    with agent.sandbox("calm", "sleep", "1000", network={"mode": "None"}):
        yield Row("skerry", "a neighbour's exec, quiet", "ms", _execs(agent))
        limits = {"cpu": "500m", "memory": "64Mi", "pids": 64, "disk": "64Mi", "io": {"writeBytesPerSecond": "10Mi"}}
        for name, script in (
            ("cpu", _SPIN),
            ("memory", "while :; do dd if=/dev/zero of=/dev/null bs=40M count=20 2>/dev/null; done"),
            ("pids", "while :; do (sleep 1 &) 2>/dev/null; done"),
            ("disk", "while :; do dd if=/dev/zero of=/f bs=1M count=100 2>/dev/null; done"),
            ("io", _WRITE),
            ("shm", "while :; do dd if=/dev/zero of=/dev/shm/f bs=1M count=40 2>/dev/null; done"),
        ):
            with agent.sandbox("hog", "sh", "-c", script, **_limited(**limits)):
                yield Row("skerry", f"a neighbour's exec beside a hog of {name}", "ms", _execs(agent))


def _execs(agent: Any) -> list[float]:
    samples = []
    for _ in range(_EXECS):
        began = time.monotonic()
        agent.client.exec("calm", ["true"])
        samples.append((time.monotonic() - began) * 1000)
    return samples


def _limited(**limits: Any) -> dict[str, Any]:
    return {"resources": {"limits": limits}, "network": {"mode": "None"}}
