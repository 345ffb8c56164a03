"""Reaching into what runs: an exec to its end, beside runc's; copies both ways, and the agent's and keeper's memory while readers stall."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable

from bench import engines, peers
from bench.row import Row
from skerry import copying
from tests.harness import images, standalone

_ROUNDS, _COPIES, _MEGABYTES = 100, 5, 512
_STALLED = 20


def measure(directory: str) -> Iterable[Row]:
    """An exec of `true`, asked to its end seen; MB/s of one large file and of many small ones."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    with standalone.running(directory, tag="bh", flags=("--shells=0",)) as agent:
        agent.client.import_image(layout)
        agent.run("box", "sleep", "100000")
        runners: dict[str, Callable[[], object]] = {"skerry": lambda: agent.client.exec("box", ["true"])}
        if shutil.which("runc"):
            runners["runc"] = _start_runc(directory)
        try:
            yield from _execs(runners)
        finally:
            if "runc" in runners:
                engines.run(["runc", "--root", f"{directory}/runc", "delete", "--force", "skhands"])
        yield from _copies(agent, directory)
        yield _stall(agent)


def _start_runc(directory: str) -> Callable[[], object]:
    bundle = os.path.join(directory, "bundle")
    os.makedirs(os.path.join(bundle, "rootfs", "bin"))
    for name in ("true", "sleep"):
        shutil.copy(images.BUSYBOX, os.path.join(bundle, "rootfs", "bin", name))
    peers.write_bundle(bundle, ["/bin/sleep", "100000"])
    runc = ["runc", "--root", f"{directory}/runc"]
    subprocess.run([*runc, "run", "--detach", "--bundle", bundle, "skhands"], check=True, stdout=subprocess.DEVNULL)  # the program keeps it open
    return lambda: engines.run([*runc, "exec", "skhands", "/bin/true"])


def _execs(runners: dict[str, Callable[[], object]]) -> Iterable[Row]:
    samples: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(_ROUNDS + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner()
            if number:
                samples[name].append((time.perf_counter() - began) * 1000)
    for name, found in samples.items():
        yield Row(name, "exec of `true`, asked to its end seen", "ms", found)


def _copies(agent: standalone.Standalone, directory: str) -> Iterable[Row]:
    opened = functools.partial(agent.client.open_copy, "box")
    path = os.path.join(directory, "large")
    with open(path, "wb") as file:
        file.writelines(os.urandom(1 << 20) for _ in range(_MEGABYTES))
    into, out = [], []
    for number in range(_COPIES):
        began = time.perf_counter()
        copying.copy_in(opened, path, "/root/large", warn=print)
        into.append(_MEGABYTES * 1.048576 / (time.perf_counter() - began))
        began = time.perf_counter()
        copying.copy_out(opened, "/root/large", f"{path}-{number}", warn=print)
        out.append(_MEGABYTES * 1.048576 / (time.perf_counter() - began))
        os.unlink(f"{path}-{number}")
    yield Row("skerry", f"cp of {_MEGABYTES} MiB into a sandbox", "MB/s", into)
    yield Row("skerry", f"cp of {_MEGABYTES} MiB out of a sandbox", "MB/s", out)


def _stall(agent: standalone.Standalone) -> Row:
    before = _resident(agent.pid)
    streams = [agent.client.open_exec("box", ["cat", "/dev/zero"]) for _ in range(_STALLED)]
    time.sleep(2.0)
    grown = _resident(agent.pid) - before
    for stream in streams:
        stream.close()
    return Row("skerry", f"agent's memory with {_STALLED} stalled readers, beyond before", "MB", [grown / 1e6])


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024
