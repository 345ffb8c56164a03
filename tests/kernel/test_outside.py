"""A keeper that left its agent's container for the host: it runs from a sealed copy of itself, and becomes the next version without losing a child.

The container here is a mount namespace of the agent's own; its parent, the test, is in the host's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

import skerry_node
from tests.harness import images, standalone
from tests.harness.agents import Place, make_place, python_environment, wait_for
from tests.harness.processes import Process

_COUNT = "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); sleep 0.02; done; exit 7"


class Contained(standalone.Standalone):
    """Its agent runs in a mount namespace of its own, and from *packages* where that is set."""

    packages: str | None = None

    def __init__(self, place: Place, directory: str) -> None:
        super().__init__(place, directory)
        self.flags.append("--keeper-outside")

    def start(self) -> None:
        if os.path.exists(self.socket_path):
            os.unlink(self.socket_path)
        environment = dict(python_environment())
        if self.packages is not None:
            environment["PYTHONPATH"] = f"{self.packages}:{environment['PYTHONPATH']}"
        argv = ["/usr/bin/unshare", "--mount", "--propagation=unchanged", sys.executable, "-m", "skerry_node", *self.flags]
        self._process = Process(argv, log_path=self.log_path, env=environment)
        wait_for(self._process, "the agent listening", lambda: os.path.exists(self.socket_path))

    def find_keeper(self):
        """The pid of the keeper, and the runtime that it runs from."""
        for name in os.listdir("/proc"):
            if name.isdigit() and standalone._is_keeper(int(name), self.place.run_dir.encode()):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    return int(name), file.read().split(b"\0")[0].decode()
        return None, None


@pytest.fixture
def node(ledger, tmp_path):
    place = make_place(0, str(tmp_path), tag="ko", count=1)
    made = Contained(place, str(tmp_path))
    os.makedirs(made.manifests, exist_ok=True)
    volumes = [_share(place.run_dir, ["-t", "tmpfs", "none"]), _share(place.state_dir, ["--bind", place.state_dir])]
    try:
        made.start()
        made.client.import_image(images.busybox_layout(str(tmp_path / "busybox")))
        yield made
    finally:
        made.stop()
        made.purge()
        for path in volumes:
            subprocess.run(["umount", path], check=True)
            os.rmdir(path)


def _share(path, source):
    """A volume as the kubelet would give it: what is mounted below it on one side is on the other too."""
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", *source, path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    return path


def _numbers(node):
    return [int(line) for line in node.output("count").split()]


def test_the_keeper_is_the_hosts(node):
    """It runs from the state directory, in a control group of its own, and outlives its agent with all that the sandbox writes."""
    node.run("count", "sh", "-c", _COUNT)
    keeper, program = node.find_keeper()
    assert program.startswith(f"{node.place.state_dir}/runtime/")
    with open(f"/proc/{keeper}/cgroup", encoding="ascii") as file:
        groups = [line.strip().split(":", 2) for line in file if ":" in line]
    assert next(path for _, names, path in groups if "pids" in names.split(",") or names == "").endswith(f"{node.place.cgroup_parent}/system")
    node.kill()
    os.kill(keeper, 0)
    node.start()
    standalone.until(lambda: node.inspect("count").get("pid") is not None)
    node.client.exec("count", ["touch", "/stop"])
    end = node.wait_end("count")
    assert (end.reason, end.exit_code) == ("Error", 7)
    numbers = _numbers(node)
    assert numbers == list(range(len(numbers)))
    assert node.find_keeper()[0] == keeper


def test_the_keeper_becomes_the_next_version(node, tmp_path):
    """An agent of another version has the same process execute another runtime; the child stays its own, no line is lost or doubled."""
    node.run("count", "sh", "-c", _COUNT)
    keeper, first = node.find_keeper()
    pid = node.inspect("count")["pid"]
    package = os.path.dirname(os.path.dirname(skerry_node.__file__))
    shutil.copytree(os.path.join(package, "skerry_node"), tmp_path / "next" / "skerry_node")
    with open(tmp_path / "next" / "skerry_node" / "keeper" / "wire.py", "a", encoding="utf-8") as file:
        file.write("\n# the next version\n")
    node.packages = str(tmp_path / "next")
    node.kill()
    before = len(_lines(node))
    node.start()
    standalone.until(lambda: node.find_keeper()[1] not in {None, first})
    assert node.find_keeper()[0] == keeper
    standalone.until(lambda: len(_lines(node)) > before + 20)
    standalone.until(lambda: node.inspect("count").get("pid") is not None)
    assert node.inspect("count")["pid"] == pid
    node.client.exec("count", ["touch", "/stop"])
    end = node.wait_end("count")
    assert (end.reason, end.exit_code) == ("Error", 7)
    numbers = _numbers(node)
    assert numbers == list(range(len(numbers)))
    assert sorted(os.listdir(f"{node.place.state_dir}/runtime")) == [os.path.basename(os.path.dirname(node.find_keeper()[1]))]


def _lines(node):
    """The segments as they lie there, whoever runs."""
    found = []
    for root, _, names in os.walk(f"{node.place.state_dir}/logs"):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                found += file.read().splitlines()
    return found
