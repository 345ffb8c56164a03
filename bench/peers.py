"""What else starts a process here: each installed peer beside ours, one after the other, round after round."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable

from bench.row import Row
from tests.harness import images, standalone

_ROUNDS = 20


def measure(directory: str) -> Iterable[Row]:
    """A run of `true` to its end: ours through the agent's door, bubblewrap, runc, where they are installed."""
    layout = images.busybox_layout(os.path.join(directory, "layout"))
    runners: dict[str, Callable[[int], None]] = {}
    root = os.path.join(directory, "bundle", "rootfs")
    os.makedirs(os.path.join(root, "bin"))
    shutil.copy(images.BUSYBOX, os.path.join(root, "bin", "true"))
    if shutil.which("bwrap"):
        runners["bubblewrap"] = lambda _: _run(["bwrap", "--unshare-all", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"])
    if shutil.which("runc"):
        _write_bundle(os.path.join(directory, "bundle"))
        bundle = os.path.join(directory, "bundle")
        runners["runc"] = lambda number: _run(["runc", "--root", f"{directory}/runc", "run", "--bundle", bundle, f"skbench{number}"])
    with standalone.running(directory, tag="bp") as agent:
        agent.client.import_image(layout)

        def ours(number: int) -> None:
            agent.run(f"p{number}", "true")
            agent.wait_end(f"p{number}")

        samples: dict[str, list[float]] = {name: [] for name in ("skerry", *runners)}
        for number in range(_ROUNDS):
            for name, runner in {"skerry": ours, **runners}.items():
                began = time.perf_counter()
                runner(number)
                samples[name].append((time.perf_counter() - began) * 1000)
    for name, found in samples.items():
        yield Row(name, "run of `true`, asked to its end seen", "ms", found)
    for name in ("ctr", "docker"):
        if shutil.which(name) is None or not _answers(name):
            print(f"  {name}: not measured, no engine of it answers here")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _answers(name: str) -> bool:
    return subprocess.run([name, "version"], capture_output=True, check=False).returncode == 0


def _write_bundle(path: str) -> None:
    _run(["runc", "spec", "--bundle", path])
    config_path = os.path.join(path, "config.json")
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/bin/true"]
    config["process"].pop("oomScoreAdj", None)
    config["process"].pop("rlimits", None)
    with open(config_path, "w", encoding="utf-8") as file:
        json.dump(config, file)
