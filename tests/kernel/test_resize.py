"""A change of the manifest reaches the control groups of what runs already."""

from __future__ import annotations

import json
import os
import signal

import pytest
import yaml

from tests.harness import standalone

MEBIBYTE = 1 << 20
# nothing until USR1 comes; then the first process becomes a dd that fills 48 MB of memory
SCRIPT = "trap 'go=1' USR1; echo waiting; while [ -z \"$go\" ]; do sleep 0.1; done; exec dd if=/dev/zero of=/dev/null bs=48000000 count=1"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """One node for all of these, which leave nothing on it."""
    directory = tmp_path_factory.mktemp("resize")
    with standalone.running_busybox(str(directory), tag="kr", flags=("--shells=0",)) as agent:
        yield agent


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        pytest.param({}, "OOMKilled", id="nothing changes: what does not fit is killed"),
        pytest.param({"memory": "96Mi"}, "Completed", id="more memory: the same process goes on where it would have died"),
    ],
)
def test_a_patch_changes_what_the_living_may_use(node, change, ends):
    """The process stays; the limit that it lives under is the manifest's newest."""
    expected = {"memory": "24Mi", **change}["memory"]
    with node.sandbox("r", "sh", "-c", SCRIPT, resources={"limits": {"memory": "24Mi"}}, network={"mode": "None"}):
        standalone.until(lambda: node.output("r") == "waiting\n")
        pid = node.inspect("r")["pid"]
        patch(node, "r", **change)
        standalone.until(lambda: read_limit(node, "r", "memory") == int(expected.removesuffix("Mi")) * MEBIBYTE)
        assert node.inspect("r")["pid"] == pid
        os.kill(pid, signal.SIGUSR1)
        assert node.wait_end("r").reason == ends


def test_a_patch_of_pids_and_cpu_arrives_too(node):
    """Every limit, and back to none."""
    with node.sandbox("r", "sh", "-c", SCRIPT):
        patch(node, "r", pids=16, cpu="250m")
        standalone.until(lambda: (read_limit(node, "r", "pids"), read_limit(node, "r", "cpu")) == (16, 25_000))
        patch(node, "r", pids=None, cpu=None)
        standalone.until(lambda: read_limit(node, "r", "cpu") is None)
        assert read_limit(node, "r", "pids") != 16


def patch(node, name, **limits: str | int | None):
    """Change limits in the manifest's file, whole or not at all, as an editor does; None removes one."""
    (path,) = (os.path.join(node.manifests, each) for each in os.listdir(node.manifests) if f"{name}." in each)
    with open(path, encoding="utf-8") as file:
        manifest = yaml.safe_load(file)
    old = manifest["spec"].get("resources", {}).get("limits", {})
    new = {key: value for key, value in {**old, **limits}.items() if value is not None}
    manifest["spec"]["resources"] = {"limits": new}
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    os.rename(path + ".new", path)


def read_limit(node, name, controller):
    """What the kernel says; CPU in microseconds per period of 100 ms; None when there is no limit."""
    files = {
        "memory": ("memory.max", "memory.limit_in_bytes"),
        "pids": ("pids.max", "pids.max"),
        "cpu": ("cpu.max", "cpu.cfs_quota_us"),
    }[controller]
    for directory in node.inspect(name)["cgroups"]:
        for each in files:
            path = os.path.join(directory, each)
            if os.path.exists(path):
                with open(path, encoding="ascii") as file:
                    text = file.read().split()[0]
                return None if text in {"max", "-1"} else int(text)
    raise FileNotFoundError(files)
