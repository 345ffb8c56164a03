"""The harness's cluster: its parts die and come back one by one, and it leaves the machine as it was."""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest

from tests.harness.agents import make_place, release_place
from tests.harness.cluster import Cluster


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_three_agents_live_side_by_side_and_leave_nothing(tmp_path):
    """Each has its own keeper; a killed part comes back; the ledger sees to what is left."""
    with Cluster.start(str(tmp_path), agents=3) as cluster:
        nodes = cluster.plane.get("sandboxnodes")["items"]
        assert {row["metadata"]["name"] for row in nodes} == {agent.name for agent in cluster.agents}
        keepers = {agent.find_keeper() for agent in cluster.agents}
        assert len(keepers - {None}) == 3
        first = cluster.agents[0]
        first.restart()
        first.wait_ready()
        assert first.find_keeper() in keepers
        first.kill_keeper()
        _wait_for_other_keeper(first, keepers)
        cluster.restart_operator()
        assert cluster.operator_pid is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_ending_takes_running_sandboxes_along(tmp_path):
    """A sandbox that runs as the cluster ends is ended and removed with it, finalizer or not."""
    with Cluster.start(str(tmp_path)) as cluster:
        spec = {"image": "busybox", "command": ["sleep", "1000"], "nodeName": cluster.agents[0].name}
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "sleeper"}, "spec": spec}
        cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
        cluster.plane.kubectl("wait", "sandbox/sleeper", "--for=jsonpath={.status.phase}=Running", "--timeout=120s")


def _wait_for_other_keeper(agent, old):
    deadline = time.monotonic() + 180
    while agent.find_keeper() in old | {None}:
        assert time.monotonic() < deadline, "no new keeper"
        time.sleep(0.05)


def test_places_share_nothing(tmp_path):
    """No two agents have a name on the machine or an address in common, and those of one cluster no id; a link's name has room."""
    clusters = [[make_place(index, str(tmp_path), tag="tag", count=16) for index in range(16)] for _ in range(2)]
    places = clusters[0] + clusters[1]
    for name in ("run_dir", "cgroup_parent", "bridge"):
        assert len({getattr(place, name) for place in places}) == len(places), name
    ids = sorted(place.id_base for place in clusters[0])
    assert all(later - earlier >= 1024 * 65_536 for earlier, later in itertools.pairwise(ids))
    assert max(ids) + 1024 * 65_536 < 2**31
    assert all(len(place.bridge.removeprefix("skerry")) <= 6 for place in places)
    for place in places:
        release_place(place)
