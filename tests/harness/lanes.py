"""How tests are spread over processes side by side (`pytest -n 3`): file by file, the longest first, so that all lanes end together.

A file's tests stay together, for they share nodes and control planes. Where they share nothing, they go one by one.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from typing import Any

from xdist.scheduler import LoadScopeScheduling

SECONDS = {
    "tests/apiserver/test_chaos.py": 130,
    "tests/kernel/test_carry.py": 60,
    "tests/kernel/test_build_crash.py": 60,
    "tests/security/test_bombs.py": 90,
    "tests/apiserver/test_operator.py": 70,
    "tests/apiserver/test_gateway_rotation.py": 70,
    "tests/apiserver/test_pulling.py": 65,
    "tests/kernel/test_build_buildah.py": 90,
    "tests/apiserver/test_sandboximages.py": 55,
    "tests/apiserver/test_cluster_hands.py": 55,
    "tests/apiserver/test_cluster_cli.py": 50,
    "tests/security/test_hands.py": 50,
    "tests/apiserver/test_monitoring.py": 50,
    "tests/apiserver/test_nodes.py": 50,
    "tests/apiserver/test_cluster.py": 40,
    "tests/kernel/test_build_agent_dies.py": 40,
    "tests/kernel/test_sandbox.py": 35,
    "tests/apiserver/test_terminations.py": 35,
    "tests/kernel/test_outside.py": 30,
    "tests/kernel/test_lives.py": 30,
    "tests/apiserver/test_chart.py": 30,
    "tests/security/test_crash_points.py": 30,
    "tests/apiserver/test_crd.py": 30,
    "tests/apiserver/test_controlplane.py": 25,
    "tests/apiserver/test_gateway.py": 25,
    "tests/kernel/test_images.py": 25,
    "tests/kernel/test_image_trees.py": 20,
    "tests/security/test_pull_kills.py": 20,
    "tests/security/test_commit_kills.py": 20,
}
"""About how long a file takes on an idle machine with two cores; what is not here takes less. Only the order follows from it."""
_APART = ("tests/apiserver/test_chaos.py", "tests/security/test_bombs.py", "tests/security/test_crash_points.py")
"""Files whose tests share nothing that is dear."""


class Scheduling(LoadScopeScheduling):
    """One unit of work for each file, or for each test of a file in _APART."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if path in _APART else path

    def _reschedule(self, node: Any) -> None:
        """Give the next unit while the last test of the one before runs: a lane that were given more would hold it back from the others."""
        if self.workqueue and self._pending_of(self.assigned_work[node]) > 1:
            return
        super()._reschedule(node)


def worker(python: str = sys.executable) -> str:
    """What execnet shall start for each lane: python below a subreaper of its own."""
    return f"popen//python={shlex.quote(python)} -m tests.harness.subreaper"


def sort_key(nodeid: str) -> tuple[int, str]:
    """Longest file first; within a file the order stays, for Python's sort is stable."""
    path = nodeid.partition("::")[0]
    return -SECONDS.get(path, 0), path


def describe(paths: Iterable[str]) -> list[str]:
    """Files in SECONDS that are not among *paths*: a file was renamed."""
    return sorted(set(SECONDS).union(_APART) - set(paths))
