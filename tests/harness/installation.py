"""The chart installed in a real cluster on this machine: its images, its volumes on the node, and the words of helm."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import skerry
from tests.harness import chart, images, ownimages
from tests.harness.agents import python_environment
from tests.harness.realcluster import RealCluster

NAMESPACE, RELEASE = "skerry-system", "skerry"
STATE_DIR, RUN_DIR, CGROUP, BRIDGE = "/var/lib/skerry-e2e", "/run/skerry-e2e", "skerry-e2e", "skerrye2e"
SOCKET = f"{RUN_DIR}/agent.sock"


class Installation:
    """One release. *say* hears of progress."""

    def __init__(self, cluster: RealCluster, say: Callable[[str], None]) -> None:
        self.cluster = cluster
        self._say = say

    def load(self, version: str, *, note: str = "") -> None:
        """Build our images of this version, where they are not yet, and give them to the node."""
        for path in ownimages.build(version, note=note, say=self._say).values():
            self.cluster.import_image(path)

    def helm(self, *args: str, check: bool = True) -> str:
        """What helm says."""
        where = ("--namespace", NAMESPACE, "--kubeconfig", self.cluster.plane.kubeconfig)
        return chart.helm(*args, *where, check=check).stdout

    def values(self, version: str) -> dict[str, Any]:
        """The chart's values on this machine."""
        return {
            "image": {"registry": ownimages.REGISTRY, "tag": version, "pullPolicy": "Never"},
            "agent": {
                "stateDir": STATE_DIR, "runDir": RUN_DIR, "cgroupParent": CGROUP, "bridge": BRIDGE, "addressRange": "10.87.0.0/16",
                "metricsAddress": "127.0.0.1:19465", "streamPort": 19469, "scratchBytes": 1 << 30,
            },
            "contentNamespaces": ["default"],
            "test": {"image": images.REFERENCE},
        }  # fmt: skip

    def apply(self, version: str) -> None:
        """Install, or upgrade to, *version*, and wait until all is ready."""
        self._say(f"helm upgrade --install {version}")
        path = os.path.join(self.cluster.directory, "values.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.values(version), file)
        try:
            self.helm("upgrade", "--install", RELEASE, chart.DIRECTORY, "--create-namespace", "--wait", "--timeout=240s", "--values", path)
        except Exception:
            self._say(self.describe())
            raise

    def import_busybox(self) -> None:
        """An image for sandboxes, by the agent's own socket, from where its pod sees it: there is no registry here."""
        directory = f"{STATE_DIR}/busybox"
        skerry.Client(SOCKET).import_image(images.busybox_layout(directory))
        shutil.rmtree(directory)

    def describe(self) -> str:
        """What a person would look at when it does not work."""
        plane = self.cluster.plane
        parts = [plane.kubectl("get", "pods,sandboxes,sandboxnodes", "-A", "-o", "wide", check=False).stdout]
        parts.append(plane.kubectl("get", "events", "-n", NAMESPACE, "--field-selector=type=Warning", check=False).stdout[-4000:])
        for base, _, names in os.walk(os.path.join(self.cluster.directory, "pod-logs", "")):
            for name in names:
                with open(os.path.join(base, name), encoding="utf-8", errors="replace") as file:
                    parts.append(f"== {base}/{name}\n{file.read()[-1500:]}")
        return "\n".join(parts)


def _purge() -> None:
    """What a test that failed half-way left of sandboxes, keeper, links and rules."""
    flags = [f"--state-dir={STATE_DIR}", f"--run-dir={RUN_DIR}", f"--cgroup-parent={CGROUP}", f"--bridge={BRIDGE}", "--address-range=10.87.0.0/16"]
    subprocess.run([sys.executable, "-m", "skerry_node", "purge", "--images", *flags, "--keeper-outside"], check=True, env=python_environment())


@contextlib.contextmanager
def volumes() -> Iterator[None]:
    """State and runtime directory of the node, on mounts of their own whose changes pods and host share, as they are under systemd."""
    for path in (STATE_DIR, RUN_DIR):
        os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "--bind", STATE_DIR, STATE_DIR], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "skerry-e2e", RUN_DIR], check=True)
    try:
        for path in (STATE_DIR, RUN_DIR):
            subprocess.run(["mount", "--make-shared", path], check=True)
        yield
    finally:
        _purge()
        for path in (RUN_DIR, STATE_DIR):
            while subprocess.run(["umount", "--lazy", path], check=False, capture_output=True).returncode == 0:
                pass  # a directory bound on itself is no mount to os.path.ismount
            shutil.rmtree(path)
