"""A person at the command line of a cluster: `skerry` with a KUBECONFIG, as its own process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from tests.harness.agents import python_environment
from tests.harness.cluster import Cluster

_SECONDS = 300


def environment(cluster: Cluster) -> dict[str, str]:
    """For a process that talks to *cluster* and to no agent of this machine."""
    made = {**python_environment(), "KUBECONFIG": cluster.plane.kubeconfig}
    made.pop("SKERRY_SOCKET", None)
    return made


def command(*words: str) -> list[str]:
    """`skerry WORDS` as arguments."""
    return [sys.executable, "-m", "skerry", *words]


def run(cluster: Cluster, *words: str, check: int = 0, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `skerry WORDS` to its end, without input. Raises AssertionError when it does not exit with *check*."""
    made = {**environment(cluster), **(env or {})}
    done = subprocess.run(command(*words), env=made, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS)
    assert done.returncode == check, (words, done.returncode, done.stdout, done.stderr)
    return done


def remove_all(cluster: Cluster) -> None:
    """Remove every sandbox of *cluster*."""
    if names := run(cluster, "ps", "-aqA").stdout.split():
        run(cluster, "rm", "-f", *names)
