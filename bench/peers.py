"""What else starts a process here: each installed peer beside ours, one after the other, round after round."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence

from bench import engines
from bench.row import Row
from tests.harness import images, standalone

_ROUNDS = 20


def measure(directory: str) -> Iterable[Row]:
    """A run of `true` to its end: ours through the agent's door, and every one of bubblewrap, runc, containerd and docker that is installed."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    root = os.path.join(directory, "bundle", "rootfs")
    os.makedirs(os.path.join(root, "bin"))
    shutil.copy(images.BUSYBOX, os.path.join(root, "bin", "true"))
    with contextlib.ExitStack() as stack:
        runners = dict(_simple(directory, root))
        for name, engine in {
            "containerd": engines.containerd(os.path.join(directory, "containerd"), layout),
            "docker": engines.docker(os.path.join(directory, "docker"), root),
        }.items():
            try:
                runners[name] = stack.enter_context(engine)
            except engines.NotMeasured as problem:
                print(f"  not measured: {problem}")
        agent = stack.enter_context(standalone.running(directory, tag="bp"))
        agent.client.import_image(layout)
        samples = _alternate({"skerry": lambda number: _run_ours(agent, number), **runners})
    for name, found in samples.items():
        yield Row(name, "run of `true`, asked to its end seen", "ms", found)


def _alternate(runners: dict[str, engines.Runner]) -> dict[str, list[float]]:
    """Milliseconds of each by name. A first round that is not counted fills everybody's caches."""
    samples: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(_ROUNDS + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner(number)
            if number:
                samples[name].append((time.perf_counter() - began) * 1000)
    return samples


def _run_ours(agent: standalone.Standalone, number: int) -> None:
    agent.create(f"p{number}", "true")
    agent.client.wait(f"p{number}")


def _simple(directory: str, root: str) -> Iterable[tuple[str, engines.Runner]]:
    """Peers that need no engine."""
    if shutil.which("bwrap"):
        confined = ["bwrap", "--unshare-all", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
        yield "bubblewrap", lambda _: engines.run(confined)
    if shutil.which("runc"):
        bundle = os.path.join(directory, "bundle")
        write_bundle(bundle)
        yield "runc", lambda number: engines.run(["runc", "--root", f"{directory}/runc", "run", "--bundle", bundle, f"skbench{number}"])
    for name in ("bwrap", "runc"):
        if shutil.which(name) is None:
            print(f"  not measured: {name}: not installed")


def write_bundle(path: str, command: Sequence[str] = ("/bin/true",)) -> None:
    """A configuration for runc in *path*, beside its root filesystem."""
    engines.run(["runc", "spec", "--bundle", path])
    config_path = os.path.join(path, "config.json")
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    config["process"]["terminal"] = False
    config["process"]["args"] = list(command)
    config["process"].pop("oomScoreAdj", None)
    config["process"].pop("rlimits", None)
    with open(config_path, "w", encoding="utf-8") as file:
        json.dump(config, file)
