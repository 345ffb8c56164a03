"""A scrape of 1,000 living sandboxes: how long, how much CPU of the agent, how large the answer; what agent and keeper hold in memory."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from bench.node import agent_memory_bytes
from bench.row import Row
from tests.harness import images, standalone

_SANDBOXES, _SCRAPES, _CLIENTS = 1000, 20, 4


def measure(directory: str) -> Iterable[Row]:
    """With Bridge, each a sleeping busybox with limits, over plain HTTP as Prometheus asks."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    with standalone.running(directory, tag="bs", flags=("--shells=0",)) as agent:
        agent.client.import_image(layout)
        with ThreadPoolExecutor(_CLIENTS) as pool:
            limits = {"limits": {"cpu": "100m", "memory": "32Mi", "pids": 20}}
            list(pool.map(lambda number: agent.create(f"s{number}", "sleep", "100000", resources=limits), range(_SANDBOXES)))
        standalone.until(lambda: sum(each.status.phase == "Running" for each in agent.client.list()) == _SANDBOXES, seconds=120)
        time.sleep(10)  # what reports and looks at disks has come to rest
        with open(agent.log_path, encoding="utf-8") as file:
            url = re.findall(r"metrics=(http://\S+)", file.read())[-1]
        seconds, cpu, size = [], [], 0
        for _ in range(_SCRAPES):
            before, began = _cpu_seconds(agent.pid), time.perf_counter()
            with urllib.request.urlopen(url) as answer:
                size = len(answer.read())
            seconds.append((time.perf_counter() - began) * 1000)
            cpu.append((_cpu_seconds(agent.pid) - before) * 1000)
            time.sleep(0.3)
        yield Row("skerry", f"scrape of {_SANDBOXES} sandboxes, request to last byte", "ms", seconds)
        yield Row("skerry", f"scrape of {_SANDBOXES} sandboxes, CPU of the agent", "ms", cpu)
        yield Row("skerry", f"scrape of {_SANDBOXES} sandboxes, answer", "MB", [size / 1e6])
        yield Row("skerry", f"agent and keeper, {_SANDBOXES} sandboxes", "MB", [agent_memory_bytes(agent) / 1e6])


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads: schedstat has nanoseconds, and only by thread."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9
