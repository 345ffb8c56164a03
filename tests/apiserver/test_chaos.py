"""Everything of ours may die at any moment: sandboxes live on, no line is lost or doubled, ends are told truthfully, nothing stays behind."""

from __future__ import annotations

import json
import random
import time

import pytest

import skerry
from tests.harness.cluster import Cluster

SEED = 20_261_124
LIVING, ENDING = 20, 10
LINES = 600
AGENT_KILLS, OPERATOR_KILLS, KEEPER_KILLS = 20, 20, 5


@pytest.fixture
def cluster(tmp_path, ledger):
    """One node under chaos."""
    with Cluster.start(str(tmp_path), agents=1, tag="ch", operator_flags=("--node-lost-seconds=60",)) as found:
        yield found


def test_nothing_is_lost_when_everything_is_killed(cluster):
    """30 sandboxes; agent and operator killed 20 times each, the keeper 5 times, at random, whoever else is dead at that moment."""
    chance = random.Random(SEED)
    script = "i=0; while [ $i -lt {} ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit {}"
    for number in range(LIVING):
        _create(cluster, f"living-{number}", script.format(LINES, number % 5), number)
    lengths = [chance.randrange(50, 300) for _ in range(ENDING)]
    for number, length in enumerate(lengths):
        _create(cluster, f"ending-{number}", script.format(length, 10 + number), number)
    _wait(lambda: _count(cluster, "Running") == LIVING + ENDING)
    kills = ["agent"] * AGENT_KILLS + ["operator"] * OPERATOR_KILLS + ["keeper"] * KEEPER_KILLS
    chance.shuffle(kills)
    agent = cluster.agents[0]
    killed = 0
    for what in kills:
        if what == "agent":
            agent.restart()
        elif what == "operator":
            cluster.restart_operator()
        else:
            killed += _kill_some_keeper(agent)
        time.sleep(chance.uniform(0.0, 1.2))
    assert killed == KEEPER_KILLS
    agent.wait_ready()
    _wait(lambda: _count(cluster, "Running") == 0, LINES * 0.1 + 180)
    client = skerry.Client(agent.socket_path)
    for name, end in _ends(cluster).items():
        kind, number = name.split("-")
        expected = (int(number) % 5, LINES) if kind == "living" else (10 + int(number), lengths[int(number)])
        assert end.get("exitCode") == expected[0], (name, end)
        lines = b"".join(piece.data for piece in client.logs(name)).decode().splitlines()
        assert lines == [f"line {place}" for place in range(expected[1])], name
    cluster.plane.kubectl("delete", "sbx", "--all", "--wait=false")
    _wait(lambda: not _sandboxes(cluster))


def _kill_some_keeper(agent):
    """Kill the keeper as soon as there is one: the agent that starts it may have been killed a moment ago. How many were killed."""
    _wait(lambda: agent.find_keeper() is not None)
    agent.kill_keeper()
    return 1


@pytest.fixture
def three(tmp_path, ledger):
    """Three nodes, of which a lost one is known after 15 s; less is what a busy machine keeps a living one waiting."""
    flags = ("--node-lost-seconds=15",)
    with Cluster.start(str(tmp_path), agents=3, tag="th", agent_flags=("--heartbeat-seconds=1", "--shells=1"), operator_flags=flags) as found:
        yield found


def test_three_nodes_schedule_lose_one_and_recover(three):
    """Sandboxes spread; those of a lost node are Lost, and released when deleted; they are Running again when it returns."""
    for number in range(9):
        _create(three, f"s-{number}", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done", number)
    _wait(lambda: _count(three, "Running") == 9)
    per_node = [sum(each["spec"]["nodeName"] == agent.name for each in _sandboxes(three)) for agent in three.agents]
    assert per_node == [3, 3, 3]
    lost = three.agents[1]
    lost.kill()
    _wait(lambda: _count(three, "Lost") == 3)
    gone = next(each["metadata"]["name"] for each in _sandboxes(three) if each["spec"]["nodeName"] == lost.name)
    three.plane.kubectl("delete", "sbx", gone, "--timeout=120s")
    _create(three, "late", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done", 0)
    _wait(lambda: _find(three, "late")["spec"].get("nodeName") not in {None, lost.name})
    lost.start()
    _wait(lambda: _count(three, "Running") == 9)
    assert _count(three, "Lost") == 0
    three.plane.kubectl("delete", "sbx", "--all", "--wait=false")
    _wait(lambda: not _sandboxes(three))


def test_what_fits_nowhere_waits_for_room(three):
    """The condition counts nodes by reason, and the sandbox is bound when room appears."""
    for agent in three.agents:
        three.plane.kubectl("patch", "sbn", agent.name, "--type=merge", "-p", '{"spec":{"unschedulable":true}}')
    deadline = time.monotonic() + 120
    while _scheduled(three)["status"] != "False":  # the operator has not heard of all three yet
        assert time.monotonic() < deadline
    _wait(lambda: _condition(three)["message"].startswith("0/3 nodes are available: 3 node(s) were unschedulable"))
    three.plane.kubectl("patch", "sbn", three.agents[2].name, "--type=merge", "-p", '{"spec":{"unschedulable":false}}')
    _wait(lambda: _count(three, "Running") == 1)
    assert _find(three, "w")["spec"]["nodeName"] == three.agents[2].name
    three.plane.kubectl("delete", "sbx", "w", "--timeout=120s")


def _scheduled(cluster):
    """The condition Scheduled of a new sandbox w."""
    cluster.plane.kubectl("delete", "sbx", "w", "--ignore-not-found", "--timeout=120s")
    _create(cluster, "w", "sleep 1000", 0)
    _wait(lambda: _condition(cluster) is not None)
    return _condition(cluster)


def _condition(cluster):
    conditions = _find(cluster, "w").get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Scheduled"), None)


def _create(cluster, name, script, number):
    manifest = {
        "apiVersion": "skerry.dev/v1alpha1",
        "kind": "Sandbox",
        "metadata": {"name": name},
        "spec": {
            "image": "busybox:latest",
            "command": ["sh", "-c", script],
            "resources": {"requests": {"cpu": "10m", "memory": "4Mi"}},
            "network": {"mode": "Bridge" if number % 3 else "None"},
        },
    }
    cluster.plane.kubectl("create", "-f", "-", input=json.dumps(manifest))


def _sandboxes(cluster):
    return cluster.plane.get("sbx")["items"]


def _find(cluster, name):
    return next(each for each in _sandboxes(cluster) if each["metadata"]["name"] == name)


def _count(cluster, phase):
    return sum(each.get("status", {}).get("phase") == phase for each in _sandboxes(cluster))


def _ends(cluster):
    return {each["metadata"]["name"]: each["status"]["termination"] for each in _sandboxes(cluster)}


def _wait(is_done, seconds=180):
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.25)
