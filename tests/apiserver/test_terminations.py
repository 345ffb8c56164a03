"""Every reason of an end, provoked through its public door on a real control plane, and read by kubectl; it stays."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from skerry_node.cgroup import group, hierarchy
from skerry_node.keeper import holding
from tests.harness import images, reboots, registry
from tests.harness import ledger as books
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FLAGS = ("--heartbeat-seconds=1", "--shells=0", "--image-tries=1", "--idle-sample-seconds=0.2")
FORKS = "i=0; while [ $i -lt 20 ]; do sleep 60 & i=$((i+1)); done; wait"

ROWS = {
    "completed": ("Completed", 0, {"command": ["true"]}),
    "error": ("Error", 3, {"command": ["sh", "-c", "exit 3"]}),
    "oom": ("OOMKilled", 137, {"command": ["tail", "/dev/zero"], "resources": {"limits": {"memory": "16Mi"}}}),
    "pids": ("PidsLimit", 2, {"command": ["sh", "-c", FORKS], "resources": {"limits": {"pids": 8}}}),
    "full": (
        "DiskFull",
        1,
        {
            "command": ["dd", "if=/dev/zero", "of=/data/f", "bs=64k"],
            "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "8Mi"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        },
    ),
    "expired": ("Expired", 137, {"command": ["sleep", "1000"], "ttl": {"activeSeconds": 1}}),
    "idle": ("IdleTimeout", 137, {"command": ["sleep", "1000"], "ttl": {"idleSeconds": 1, "onIdle": "Stop"}}),
    "nostart": ("StartFailed", None, {"command": ["/no/such"]}),
    "stopped": ("Stopped", 137, {"command": ["sleep", "1000"], "desiredState": "Running"}),
}


@pytest.fixture(autouse=True)
def _nothing_stays() -> None:
    """Nothing, in place of the ledger for each test: the agents live over all of them, and `cluster` keeps the books."""


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory):
    """It answers, and has nothing."""
    with registry.running(str(tmp_path_factory.mktemp("registry"))) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, empty_registry, ledger_scope):
    """Two nodes, of which a lost one is known after 8 s."""
    before = books.snapshot(ledger_scope)
    directory = str(tmp_path_factory.mktemp("ends"))
    config = registry.write_hosts(os.path.join(directory, "certs.d"), empty_registry.host, f'server = "{empty_registry.url}"\n')
    operator = ("--node-lost-seconds=8",)
    with Cluster.start(directory, agents=2, tag="te", agent_flags=(*FLAGS, f"--registry-config={config}"), operator_flags=operator) as found:
        yield found
    assert books.wait_for_balance(before, ledger_scope) == []


def test_every_end_tells_why_and_stays(cluster, empty_registry):
    """One row for each reason that a sandbox comes to by itself or on demand; seen again after all is cleaned up and the agent is new."""
    node = cluster.agents[0]
    for name, (_, _, spec) in ROWS.items():
        _create(cluster, name, node.name, spec)
    _create(cluster, "noimage", node.name, {"image": f"{empty_registry.host}/none/such:1", "command": ["true"]})
    cluster.plane.kubectl("wait", "sandbox/stopped", "--for=condition=Ready", "--timeout=60s")
    cluster.plane.kubectl("patch", "sandbox", "stopped", "--type=merge", "-p", '{"spec":{"desiredState":"Stopped"}}')
    expected = {name: (reason, code) for name, (reason, code, _) in ROWS.items()} | {"noimage": ("ImagePullFailed", None)}
    _wait(lambda: _ends(cluster, expected) == expected, lambda: _ends(cluster, expected))
    node.restart()
    node.wait_ready()
    _wait(lambda: not _groups(node))
    assert _ends(cluster, expected) == expected
    for name in expected:
        cluster.plane.kubectl("delete", "sandbox", name, "--wait=false")
    _wait(lambda: not cluster.plane.get("sandboxes")["items"])


def test_what_nobody_saw_end_and_what_a_node_took_along(cluster):
    """All that could have seen the end is killed: KeeperLost. A silent node: NodeLost, Running when it is back. Switched off: NodeRebooted."""
    first, second = cluster.agents
    for name, node in (("unseen", first), ("rebooted", second), ("late", second)):
        _create(cluster, name, node.name, {"command": ["sleep", "1000"]})
        cluster.plane.kubectl("wait", f"sandbox/{name}", "--for=condition=Ready", "--timeout=60s")
    pid = _first_process(first, "unseen", cluster)
    first.kill()
    holding.stop_attic(os.path.join(first.place.run_dir, holding.NAME))
    first.kill_keeper()
    os.kill(pid, signal.SIGKILL)
    second.kill()
    lost = {"rebooted": ("NodeLost", None), "late": ("NodeLost", None)}
    _wait(lambda: _ends(cluster, lost) == lost, lambda: _ends(cluster, lost))
    first.start()
    second.start()
    _wait(lambda: all(_ready(cluster, name) == ("True", "Running") for name in lost))
    assert _ends(cluster, lost) == dict.fromkeys(lost, (None, None))
    unseen = {"unseen": ("KeeperLost", None)}
    _wait(lambda: _ends(cluster, unseen) == unseen, lambda: _ends(cluster, unseen))
    reboots.switch_off(second)
    second.start()
    rebooted = dict.fromkeys(lost, ("NodeRebooted", None))
    _wait(lambda: _ends(cluster, rebooted) == rebooted, lambda: _ends(cluster, rebooted))
    cluster.plane.kubectl("delete", "sandboxes", "--all", "--timeout=60s")


def _create(cluster, name, node_name, spec):
    body = {"image": images.REFERENCE, "terminationGracePeriodSeconds": 1, **spec, "nodeName": node_name}
    manifest = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": body}
    cluster.plane.kubectl("create", "-f", "-", input=json.dumps(manifest))


def _ends(cluster, names):
    """Name -> reason and exit code, as kubectl reads them."""
    ends = {}
    for each in cluster.plane.get("sandboxes")["items"]:
        if each["metadata"]["name"] in names:
            end = each.get("status", {}).get("termination") or {}
            ends[each["metadata"]["name"]] = (end.get("reason"), end.get("exitCode"))
    return ends


def _ready(cluster, name):
    found = next(each for each in cluster.plane.get("sandboxes")["items"] if each["metadata"]["name"] == name)
    return next(((each["status"], each["reason"]) for each in found.get("status", {}).get("conditions", ()) if each["type"] == "Ready"), None)


def _groups(node):
    return group.Parent(hierarchy.detect(), node.place.cgroup_parent).list()


def _first_process(node, name, cluster):
    found = next(each for each in cluster.plane.get("sandboxes")["items"] if each["metadata"]["name"] == name)
    with open(os.path.join(node.place.run_dir, "sandboxes", found["metadata"]["uid"], "process"), encoding="utf-8") as file:
        return json.load(file)["pid"]


def _wait(is_done, describe=lambda: "", *, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, f"it did not happen in time: {describe()}"
        time.sleep(0.2)
