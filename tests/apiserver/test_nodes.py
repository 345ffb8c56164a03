"""Three nodes on a real control plane: one is drained, one cut off while objects are deleted, one switched off; what is said is true afterwards.

SKERRY_PARTITION_SECONDS=60 (or 300) makes the partition as long; the figures are printed (-s).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from skerry_node.cgroup import group, hierarchy
from tests.harness import images, reboots, relay
from tests.harness import ledger as books
from tests.harness.agents import Agent, python_environment
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
DRAINED = 30
PARTITION_SECONDS = float(os.environ.get("SKERRY_PARTITION_SECONDS", "0"))
"""0: until the node is known to be lost, and its sandboxes with it."""
POLITE = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"


@pytest.fixture(autouse=True)
def _nothing_stays() -> None:
    """Nothing, in place of the ledger for each test: the agents live over all of them, and `three` keeps the books."""


@pytest.fixture(scope="module")
def three(tmp_path_factory, ledger_scope):
    """Three nodes, of which a lost one is known after 8 s."""
    before = books.snapshot(ledger_scope)
    flags = ("--node-lost-seconds=8",)
    directory = str(tmp_path_factory.mktemp("nodes"))
    with Cluster.start(directory, agents=3, tag="no", agent_flags=("--heartbeat-seconds=1", "--shells=0"), operator_flags=flags) as found:
        yield found
    assert books.wait_for_balance(before, ledger_scope) == []


def test_a_drain_moves_thirty_and_says_what_it_does(three):
    """A line for each, with its grace period; every one runs again, on another node; in the end nothing of them is on the drained one."""
    node = three.agents[0]
    for number in range(DRAINED):
        _create(three, f"d-{number}", POLITE, node=node.name)
    _wait(lambda: _count(three, "Running") == DRAINED)
    done = _skerry(three, "node", "drain", node.name, "--timeout=2")
    assert done.returncode != 0
    assert "would be gone for good" in done.stderr
    done = _skerry(three, "node", "drain", node.name, "--move", "--timeout=120")
    assert done.returncode == 0, done.stderr
    assert sum(line.endswith(" moved") for line in done.stdout.splitlines()) == DRAINED
    _wait(lambda: _count(three, "Running") == DRAINED)
    places = [each["spec"]["nodeName"] for each in _sandboxes(three)]
    assert {places.count(agent.name) for agent in three.agents[1:]} == {DRAINED // 2}
    _wait(lambda: not _groups(node))
    _delete_all(three)
    assert _skerry(three, "node", "uncordon", node.name).returncode == 0


def test_a_drain_gives_up_in_time_and_goes_on(three):
    """One that takes its grace period outlasts the command, which says so; a shorter one helps."""
    node = three.agents[0]
    _create(three, "slow", "trap 'echo no' TERM; while :; do sleep 1; done", node=node.name, terminationGracePeriodSeconds=3600)
    _wait(lambda: _count(three, "Running") == 1)
    done = _skerry(three, "node", "drain", node.name, "--force", "--timeout=1")
    assert done.returncode != 0
    assert "still has sandboxes after 1 s" in done.stderr
    assert _ready(three, "slow") is not None, "it goes on"
    done = _skerry(three, "node", "drain", node.name, "--force", "--grace-period=0", "--timeout=60")
    assert (done.returncode, done.stdout) == (0, "default/slow removed\n")
    assert not _sandboxes(three)
    assert _skerry(three, "node", "uncordon", node.name).returncode == 0


def test_a_node_that_was_cut_off_comes_back_with_what_is_wanted(three):
    """Cut off, its sandboxes live and are Lost; one is deleted, one made again by its name, one ends. Back: each is what it should be."""
    node = three.agents[1]
    target = relay.target_of(three.plane.kubeconfig)
    node.stop()
    with relay.Relay(target) as way:
        config = way.write_kubeconfig(three.plane.kubeconfig, os.path.join(three.directory, "relayed.yaml"))
        cut = Agent(node.place, kubeconfig=config, log_path=node.log_path)
        cut.start()
        cut.wait_ready()
        try:
            _live_through_a_partition(three, way, node)
        finally:
            cut.stop()
    node.start()
    node.wait_ready()
    _delete_all(three)


def _live_through_a_partition(three, way, node):
    for name in ("lives", "paused", "deleted", "again"):
        _create(three, name, POLITE, node=node.name)
    _create(three, "ends", "until [ -e /tmp/end ]; do sleep 0.2; done; exit 3", node=node.name)
    _wait(lambda: _count(three, "Running") == 5)
    three.plane.kubectl("patch", "sandbox", "paused", "--type=merge", "-p", '{"spec":{"desiredState":"Paused"}}')
    _wait(lambda: _ready(three, "paused") == "Paused")
    uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in _sandboxes(three)}
    before = {name: _first_process(node, uid) for name, uid in uids.items()}
    began = time.monotonic()
    way.cut()
    _wait(lambda: _count(three, "Lost") == 5)
    assert set(_groups(node)) == set(uids.values()), "what is lost lives"
    three.plane.kubectl("delete", "sandbox", "deleted", "again", "--timeout=30s")
    _create(three, "again", POLITE, node=three.agents[2].name)
    with open(f"/proc/{before['ends']}/root/tmp/end", "w", encoding="ascii"):
        pass
    time.sleep(max(0.0, PARTITION_SECONDS - (time.monotonic() - began)))
    healed = time.monotonic()
    way.heal()
    wanted = {"lives": "Running", "paused": "Paused", "again": "Running", "ends": "Error"}
    _wait(lambda: {name: _ready(three, name) for name in wanted} == wanted, lambda: {name: _ready(three, name) for name in wanted})
    _wait(lambda: set(_groups(node)) == {uids["lives"], uids["paused"]}, lambda: _groups(node))
    print(f"\npartition of {healed - began:.1f} s: all statuses true and all orphans gone {time.monotonic() - healed:.2f} s after the return")
    assert {name: _first_process(node, uids[name]) for name in ("lives", "paused")} == {name: before[name] for name in ("lives", "paused")}
    assert [each["metadata"]["name"] for each in _sandboxes(three)] == ["again", "ends", "lives", "paused"]
    assert next(each for each in _sandboxes(three) if each["metadata"]["name"] == "ends")["status"]["termination"]["exitCode"] == 3


def test_a_reboot_ends_what_ran_and_nothing_else(three):
    """Switched off for longer than it takes to be lost, with one deleted meanwhile; back: NodeRebooted, Always runs again, what had ended stays."""
    node = three.agents[2]
    _create(three, "ran", POLITE, node=node.name)
    _create(three, "always", POLITE, node=node.name, restartPolicy="Always")
    _create(three, "deleted", POLITE, node=node.name)
    _create(three, "ended", "exit 4", node=node.name)
    _wait(lambda: _count(three, "Running") == 3 and _ready(three, "ended") == "Error")
    reboots.switch_off(node)
    _wait(lambda: _count(three, "Lost") == 3)
    three.plane.kubectl("delete", "sandbox", "deleted", "--timeout=30s")
    returned = time.monotonic()
    node.start()
    wanted = {"ran": "NodeRebooted", "always": "Running", "ended": "Error"}
    _wait(lambda: {name: _ready(three, name) for name in wanted} == wanted, lambda: {name: _ready(three, name) for name in wanted})
    print(f"\nreboot: all statuses true {time.monotonic() - returned:.2f} s after the agent was started")
    ends = {each["metadata"]["name"]: each["status"]["termination"] for each in _sandboxes(three)}
    assert {name: end["reason"] for name, end in ends.items()} == {"always": "NodeRebooted", "ended": "Error", "ran": "NodeRebooted"}
    assert ends["ended"]["exitCode"] == 4
    assert len(_groups(node)) == 1
    _delete_all(three)


def test_a_second_agent_of_the_same_name_refuses_to_start(three):
    """With a sentence: by the Lease on another machine, by the state directory on the same."""
    place = three.agents[0].place
    flags = [*place.render_flags(), f"--kubeconfig={three.plane.kubeconfig}"]
    for change, says in ((f"--state-dir={three.directory}/other", "is held by the agent"), ("", "has the state directory")):
        done = subprocess.run(
            [sys.executable, "-m", "skerry_node", *flags, *([change] if change else [])],
            env=python_environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith("skerry-agent: ")
        assert says in done.stderr


def _create(three, name, script, *, node, **spec: object):
    body = {"image": images.REFERENCE, "command": ["sh", "-c", script], "nodeName": node, "resources": {"requests": {"cpu": "10m"}}, **spec}
    manifest = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": body}
    three.plane.kubectl("create", "-f", "-", input=json.dumps(manifest))


def _skerry(three, *words: str):
    environment = {**python_environment(), "KUBECONFIG": three.plane.kubeconfig}
    return subprocess.run([sys.executable, "-m", "skerry", *words], env=environment, capture_output=True, text=True, check=False, timeout=200)


def _sandboxes(three):
    return three.plane.get("sandboxes")["items"]


def _delete_all(three):
    three.plane.kubectl("delete", "sandboxes", "--all", "--timeout=90s")


def _count(three, phase):
    return sum(each.get("status", {}).get("phase") == phase for each in _sandboxes(three))


def _ready(three, name):
    found = next((each for each in _sandboxes(three) if each["metadata"]["name"] == name), {})
    return next((each["reason"] for each in found.get("status", {}).get("conditions", ()) if each["type"] == "Ready"), None)


def _groups(node):
    return group.Parent(hierarchy.detect(), node.place.cgroup_parent).list()


def _first_process(node, uid):
    with open(os.path.join(node.place.run_dir, "sandboxes", uid, "process"), encoding="utf-8") as file:
        return json.load(file)["pid"]


def _wait(is_done, describe=lambda: "", *, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, f"it did not happen in time: {describe()}"
        time.sleep(0.2)
