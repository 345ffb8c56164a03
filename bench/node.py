"""Launches on the node: the keeper's and the agent's own figures from the reconcile, rates, memory and processes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any

from bench.row import Row
from tests.harness import images, standalone

_COLD, _WARM, _BURST, _IDLE = 40, 40, 100, 50
_DRESSING_SECONDS = 10.0


def measure(directory: str) -> Iterable[Row]:
    """Cold and warm launches, a burst, memory per idle sandbox."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    for what, flags, count in (("Cold", ("--shells=0",), _COLD), ("Warm", ("--shells=4",), _WARM)):
        os.makedirs(os.path.join(directory, what))
        with standalone.running(os.path.join(directory, what), tag=f"b{what[0].lower()}", flags=flags) as agent:
            agent.client.import_image(layout)
            time.sleep(1.0)
            yield from _launches(agent, what, count)
    os.makedirs(os.path.join(directory, "burst"))
    with standalone.running(os.path.join(directory, "burst"), tag="bb", flags=(f"--shells={_BURST}",)) as agent:
        agent.client.import_image(layout)
        yield Row("skerry", "agent and keeper, no sandbox, no shell ready yet", "MB", [agent_memory_bytes(agent) / 1e6])
        deadline = time.monotonic() + 30
        while agent.client.info()["details"]["shellsReady"] < _BURST and time.monotonic() < deadline:
            time.sleep(0.1)
        with agent.sandbox("first", "true"):  # from now on shells wait with that root on, before the count as after it
            agent.wait_end("first")
        time.sleep(_DRESSING_SECONDS)
        yield from _memory(agent)


def _launches(agent: Any, what: str, count: int) -> Iterable[Row]:
    for number in range(count):
        agent.run(f"s{number}", "sleep", "1000", network={"mode": "Bridge"})
        time.sleep(0.05)
        if number % 2:
            agent.remove(f"s{number}")
    keeper, reconcile = read_launches(agent.log_path, what)
    yield Row("skerry", f"{what.lower()} launch, keeper: request to exec, bridge", "ms", keeper)
    yield Row("skerry", f"{what.lower()} launch, agent: seen to running, bridge", "ms", reconcile)


def read_launches(log_path: str, what: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each launch of the kind *what*, Cold or Warm, at the keeper and in the agent."""
    keeper, reconcile = [], []
    with open(log_path, encoding="utf-8") as file:
        for line in file:
            found = re.search(r"launched uid=\S+ type=(\w+) keeper_seconds=([0-9.]+) seconds=([0-9.]+)", line)
            if found is not None and found[1] == what:
                keeper.append(float(found[2]) * 1000)
                reconcile.append(float(found[3]) * 1000)
    return keeper, reconcile


def _memory(agent: Any) -> Iterable[Row]:
    before = _kernel_bytes()
    for number in range(_IDLE):
        agent.client.create(
            {
                "apiVersion": "skerry.dev/v1alpha1",
                "kind": "Sandbox",
                "metadata": {"name": f"m{number}"},
                "spec": {"image": "busybox:latest", "command": ["sleep", "10000"], "network": {"mode": "Bridge"}},
            }
        )
    while sum(each.status.phase == "Running" for each in agent.client.list()) < _IDLE:
        time.sleep(0.1)
    time.sleep(15)  # shells refill: their memory was there before, and is there again
    yield Row("skerry", "idle sandbox beyond its shell: kernel objects and pages", "MB", [(_kernel_bytes() - before) / _IDLE / 1e6])
    processes = [sum(1 for _ in open(f"{path}/cgroup.procs", encoding="ascii")) for path in _cgroups(agent, _IDLE)]  # noqa: SIM115
    yield Row("skerry", "processes of an idle sandbox, its own included", "count", [float(each) for each in processes])


def _cgroups(agent: Any, count: int) -> list[str]:
    return [next(path for path in agent.inspect(f"m{number}")["cgroups"] if "pids" in path or "unified" in path) for number in range(count)]


def agent_memory_bytes(agent: Any) -> float:
    """Resident bytes of the agent and its keeper."""
    pids = [agent.pid, _find_keeper(agent)]
    return sum(_resident(pid) for pid in pids)


def _find_keeper(agent: Any) -> int:
    wanted = os.path.join(agent.place.run_dir, "keeper.sock").encode()
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if name.isdigit() and wanted in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return min(found)


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024


def _kernel_bytes() -> int:
    """SUnreclaim, Percpu, PageTables, KernelStack and AnonPages of /proc/meminfo: MemAvailable misleads."""
    wanted = {"SUnreclaim:", "Percpu:", "PageTables:", "KernelStack:", "AnonPages:"}
    with open("/proc/meminfo", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.split()[0] in wanted)
