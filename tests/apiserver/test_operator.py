"""The operator against a real API server; nodes are objects and Leases that the test writes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import random
import signal
import sys
from typing import Any

import pytest

from skerry_operator import access, client, errors
from tests.harness.agents import python_environment
from tests.harness.processes import Process, tail
from tests.unit.api import manifests

_GROUP = "/apis/skerry.dev/v1alpha1"
_FINALIZER = "skerry.dev/node-cleanup"
_LOST_SECONDS = 4.0
_LONG_SECONDS = 60.0  # where no node is lost: this process, which beats for them, may stall for seconds on a busy machine
_PATIENCE_SECONDS = 180.0


def _stamp():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class World:
    """Fake nodes, sandboxes, and operators that can be killed."""

    def __init__(self, plane, connection, namespace, directory) -> None:
        self.plane = plane
        self.client = connection
        self.namespace = namespace
        self.sandboxes_path = f"{_GROUP}/namespaces/{namespace}/sandboxes"
        self._directory = directory
        self._nodes = set()
        self.beating = set()
        self.operators = []

    def start_operator(self, identity="one", *, lost_seconds=_LONG_SECONDS, lease_seconds=15):
        log_path = str(self._directory / f"operator-{len(self.operators)}.log")
        flags = [f"--kubeconfig={self.plane.kubeconfig}", f"--system-namespace={self.namespace}", f"--identity={identity}"]
        flags += [f"--node-lost-seconds={lost_seconds}", f"--lease-seconds={lease_seconds}"]
        process = Process([sys.executable, "-m", "skerry_operator", *flags], log_path=log_path, env=python_environment())
        self.operators.append(process)
        return process

    async def add_node(self, name, *, cpu="1", taints=(), labels=None, unschedulable=False):
        spec = {"unschedulable": unschedulable, "taints": list(taints)}
        metadata = {"name": name, "labels": labels or {}}
        await self.client.request(
            "POST", f"{_GROUP}/sandboxnodes", body={"apiVersion": "skerry.dev/v1alpha1", "kind": "SandboxNode", "metadata": metadata, "spec": spec}
        )
        self._nodes.add(name)
        self.beating.add(name)
        ready = {"type": "Ready", "status": "True", "reason": "Ok", "lastTransitionTime": _stamp()}
        await self.patch_node(name, {"status": {"allocatable": {"cpu": cpu, "memory": "10Gi", "sandboxes": 100}, "conditions": [ready]}}, "/status")
        lease = {"metadata": {"name": name}, "spec": {"renewTime": _stamp()}}
        await self.client.request("POST", self._leases_path, body=lease)

    async def patch_node(self, name, body, suffix=""):
        await self.client.request("PATCH", f"{_GROUP}/sandboxnodes/{name}{suffix}", body=body, content_type=client.MERGE)

    async def node_ready(self, name):
        node = await self.client.request("GET", f"{_GROUP}/sandboxnodes/{name}")
        return next((each["status"], each["reason"]) for each in node["status"]["conditions"] if each["type"] == "Ready")

    async def create(self, name, *, cpu="400m", **spec: Any):
        spec = {"resources": {"requests": {"cpu": cpu}}, **spec}
        body = manifests.good(**spec) | {"metadata": {"name": name}}
        return await self.client.request("POST", self.sandboxes_path, body=body)

    async def get(self, name):
        return await self.client.request("GET", f"{self.sandboxes_path}/{name}")

    async def find(self, name):
        with contextlib.suppress(errors.NotFound):
            return await self.get(name)
        return None

    async def delete(self, name, *, forcibly=False):
        await self.client.request("DELETE", f"{self.sandboxes_path}/{name}")
        if forcibly:
            with contextlib.suppress(errors.NotFound):
                await self.patch(name, {"metadata": {"finalizers": None}})

    async def patch(self, name, body, suffix=""):
        return await self.client.request("PATCH", f"{self.sandboxes_path}/{name}{suffix}", body=body, content_type=client.MERGE)

    async def placed(self):
        """Name of each sandbox -> its node, None while it waits."""
        answer = await self.client.request("GET", self.sandboxes_path)
        return {each["metadata"]["name"]: each["spec"].get("nodeName") for each in answer["items"]}

    async def is_bound(self, name):
        return (await self.placed())[name]

    async def condition(self, name, kind):
        sandbox = await self.get(name)
        found = [each for each in sandbox["status"].get("conditions", ()) if each["type"] == kind]
        return (found[0]["status"], found[0]["reason"], found[0]["message"]) if found else None

    async def events(self, reason):
        answer = await self.client.request("GET", f"/api/v1/namespaces/{self.namespace}/events")
        return [each["message"] for each in answer["items"] if each["reason"] == reason]

    async def report_end(self, name, *, reason="Completed"):
        """As an agent would."""
        ready = {"type": "Ready", "status": "False", "reason": reason, "lastTransitionTime": _stamp()}
        end = {"reason": reason, "exitCode": 0, "finishedAt": _stamp()}
        await self.patch(name, {"status": {"conditions": [ready], "termination": end}}, "/status")

    async def beat(self):
        while True:
            for name in sorted(self.beating):
                with contextlib.suppress(errors.RequestFailed):
                    await self.client.request(
                        "PATCH", f"{self._leases_path}/{name}", body={"spec": {"renewTime": _stamp()}}, content_type=client.MERGE
                    )
            await asyncio.sleep(0.5)

    async def close(self):
        for process in self.operators:
            process.send(signal.SIGCONT)
            process.kill()
        for name in self._nodes:
            await self.client.request("DELETE", f"{_GROUP}/sandboxnodes/{name}")
        await self.client.close()

    @property
    def _leases_path(self):
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"


@pytest.fixture
async def world(control_plane, namespace, tmp_path):
    made = World(control_plane, client.Client(await access.load(control_plane.kubeconfig)), namespace, tmp_path)
    beating = asyncio.create_task(made.beat())
    yield made
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating
    await made.close()


async def _until(what, ask, *, is_so=bool):
    """Wait until the answer of *ask* satisfies *is_so*; the answer."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        with contextlib.suppress(errors.Unavailable):
            if is_so(answer := await ask()):
                return answer
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.05)


async def test_a_bind_is_one_write(world):
    """Node name and finalizer come together, and nothing else is written: no annotation, no status, no event."""
    await world.add_node("n1")
    world.start_operator()
    created = await world.create("a")
    await _until("bound", lambda: world.is_bound("a"))
    bound = await world.get("a")
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["metadata"]["finalizers"] == [_FINALIZER]
    assert bound["metadata"]["generation"] == created["metadata"]["generation"] + 1
    assert "annotations" not in bound["metadata"]
    assert bound["status"] == {"phase": "Pending"}
    assert await world.events("FailedScheduling") == []
    await asyncio.sleep(1)
    assert (await world.get("a"))["metadata"]["resourceVersion"] == bound["metadata"]["resourceVersion"]


async def test_sandboxes_spread_and_wait_for_room(world):
    """Two fit on each of three nodes; the seventh hears why not, once, and is bound when one goes."""
    for name in ("n1", "n2", "n3"):
        await world.add_node(name)
    world.start_operator()
    for number in range(6):
        await world.create(f"s{number}")
    placed = await _until("six bound", world.placed, is_so=lambda found: all(found.values()))
    assert sorted(placed.values()) == ["n1", "n1", "n2", "n2", "n3", "n3"]
    await world.create("late")
    message = "0/3 nodes are available: 3 Insufficient cpu."
    scheduled = await _until("unschedulable", lambda: world.condition("late", "Scheduled"))
    assert scheduled == ("False", "Unschedulable", message)
    version = (await world.get("late"))["metadata"]["resourceVersion"]
    await world.patch_node("n1", {"metadata": {"labels": {"new": "label"}}})
    await _until("event", lambda: world.events("FailedScheduling"))
    await asyncio.sleep(0.5)
    assert (await world.get("late"))["metadata"]["resourceVersion"] == version, "written although nothing changed"
    assert await world.events("FailedScheduling") == [message]
    await world.delete("s0", forcibly=True)
    assert await _until("late bound", lambda: world.is_bound("late")) == placed["s0"]
    await _until("scheduled", lambda: world.condition("late", "Scheduled"), is_so=lambda found: found == ("True", "Bound", ""))


async def test_finished_sandboxes_make_room(world):
    """What ended for good takes nothing."""
    await world.add_node("n1")
    world.start_operator()
    await world.create("a", cpu="1")
    await _until("bound", lambda: world.is_bound("a"))
    await world.create("b", cpu="1")
    await _until("unschedulable", lambda: world.condition("b", "Scheduled"))
    await world.report_end("a")
    await _until("bound", lambda: world.is_bound("b"))


async def test_cordons_selectors_and_taints_hold(world):
    """Each node says no for a reason of its own, and yes when the reason goes."""
    await world.add_node("n1", labels={"zone": "a"}, unschedulable=True)
    await world.add_node("n2", labels={"zone": "b"})
    await world.add_node("n3", labels={"zone": "a"}, taints=[{"key": "dedicated", "value": "x"}])
    world.start_operator()
    await world.create("a", nodeSelector={"zone": "a"})
    await world.create("b", nodeSelector={"zone": "a"}, tolerations=[{"key": "dedicated", "operator": "Exists"}])
    assert await _until("tolerated", lambda: world.is_bound("b")) == "n3"
    reasons = ("1 node(s) didn't match the node selector", "1 node(s) had untolerated taint {dedicated: x}", "1 node(s) were unschedulable")
    expected = f"0/3 nodes are available: {', '.join(reasons)}."
    await _until("unschedulable", lambda: world.condition("a", "Scheduled"), is_so=lambda found: found == ("False", "Unschedulable", expected))
    await world.patch_node("n1", {"spec": {"unschedulable": False}})
    assert await _until("uncordoned", lambda: world.is_bound("a")) == "n1"


async def test_a_lost_node_is_said_and_comes_back(world):
    """Its sandboxes become Lost, those deleted are released, also by an operator that was killed meanwhile; it gets no more until it is heard."""
    await world.add_node("n1")
    await world.add_node("n2")
    world.start_operator(lost_seconds=_LOST_SECONDS)
    for number in range(4):
        await world.create(f"s{number}")
    placed = await _until("bound", world.placed, is_so=lambda found: all(found.values()))
    lost = sorted(name for name, node in placed.items() if node == "n1")
    kept = sorted(name for name, node in placed.items() if node == "n2")
    await world.report_end(lost[1])
    world.beating.discard("n1")
    ready = await _until("lost", lambda: world.condition(lost[0], "Ready"))
    assert ready == ("False", "NodeLost", "node n1 sends no heartbeat")
    status = (await world.get(lost[0]))["status"]
    assert (status["phase"], status["termination"]["reason"]) == ("Lost", "NodeLost")
    assert (await world.get(lost[1]))["status"]["termination"]["reason"] == "Completed", "the reason of an end stays"
    assert all([await world.condition(name, "Ready") is None for name in kept])
    await _until("node unknown", lambda: world.node_ready("n1"), is_so=lambda found: found == ("Unknown", "NodeLost"))
    await _until("event", lambda: world.events("NodeLost"))
    await world.delete(lost[0])
    await _until("released", lambda: world.find(lost[0]), is_so=lambda found: found is None)

    world.operators[0].kill()
    await world.delete(lost[1])
    await world.delete(kept[0])
    world.start_operator(lost_seconds=_LOST_SECONDS)
    await _until("released after a restart", lambda: world.find(lost[1]), is_so=lambda found: found is None)
    assert (await world.get(kept[0]))["metadata"]["finalizers"] == [_FINALIZER], "its node lives and will clean up"
    await world.create("new", cpu="900m")
    await _until("nowhere", lambda: world.condition("new", "Scheduled"))
    assert await world.node_ready("n1") == ("Unknown", "NodeLost")
    world.beating.add("n1")
    assert await _until("bound", lambda: world.is_bound("new")) == "n1"
    assert await world.node_ready("n1") == ("True", "HeartbeatReturned")


async def test_finished_sandboxes_expire(world):
    """Also when the operator was away as their time ended, and not before."""
    await world.add_node("n1")
    operator = world.start_operator()
    for name, seconds in (("soon", 1), ("late", 3600)):
        await world.create(name, cpu="10m", ttl={"secondsAfterFinished": seconds})
    await world.create("never", cpu="10m")
    await _until("bound", world.placed, is_so=lambda found: all(found.values()))
    operator.kill()
    for name in ("soon", "late", "never"):
        await world.report_end(name)
    await asyncio.sleep(1)
    world.start_operator()
    await _until("expired", lambda: world.get("soon"), is_so=lambda found: "deletionTimestamp" in found["metadata"])
    await world.create("soon2", cpu="10m", ttl={"secondsAfterFinished": 1})
    await _until("bound", lambda: world.is_bound("soon2"))
    await world.report_end("soon2")
    await _until("expired", lambda: world.get("soon2"), is_so=lambda found: "deletionTimestamp" in found["metadata"])
    for name in ("late", "never"):
        assert "deletionTimestamp" not in (await world.get(name))["metadata"]


async def test_bound_by_hand_gets_the_finalizer(world):
    """Whoever names a node still has it clean up."""
    await world.add_node("n1")
    world.start_operator()
    await world.create("a", nodeName="n1")
    await _until("protected", lambda: world.get("a"), is_so=lambda found: found["metadata"].get("finalizers") == [_FINALIZER])


async def test_killed_at_any_moment_it_ends_in_the_same_state(world):
    """60 sandboxes for 40 places, the operator killed again and again meanwhile: every place is used once, the rest is told why not."""
    for name in ("n1", "n2", "n3", "n4"):
        await world.add_node(name)
    chance = random.Random(3)
    creating = asyncio.create_task(_create_many(world, 60))
    for _ in range(5):
        operator = world.start_operator()
        await asyncio.sleep(1.0 + chance.random())  # it takes a second to start
        operator.kill()
    await creating
    world.start_operator()
    await _until("all places used", world.placed, is_so=lambda found: sum(1 for node in found.values() if node) == 40)
    placed = await world.placed()
    assert {node: list(placed.values()).count(node) for node in ("n1", "n2", "n3", "n4")} == dict.fromkeys(("n1", "n2", "n3", "n4"), 10)
    for name in [name for name, node in placed.items() if node is None]:
        condition = await _until(f"{name} told", lambda name=name: world.condition(name, "Scheduled"))
        assert condition[2] == "0/4 nodes are available: 4 Insufficient cpu."


async def _create_many(world, count):
    for number in range(count):
        await world.create(f"s{number:02}", cpu="100m")
        await asyncio.sleep(0.05)


async def test_one_writes_at_a_time(world):
    """A second replica waits, takes over when the first is silent, and the first, when it wakes, ends without a write."""
    await world.add_node("n1")
    first = world.start_operator("one", lease_seconds=8)
    await world.create("a", cpu="10m")
    await _until("bound", lambda: world.is_bound("a"))
    second = world.start_operator("two", lease_seconds=8)
    await asyncio.sleep(3)
    assert await _holder(world) == "one"
    assert second.is_running
    first.send(signal.SIGSTOP)
    await world.create("b", cpu="10m")
    await _until("bound by the second", lambda: world.is_bound("b"))
    assert await _holder(world) == "two"
    first.send(signal.SIGCONT)
    await _until("the first ends", _answer(lambda: not first.is_running))
    assert "is held by two" in tail(first.log_path)
    second.stop()
    assert await _holder(world) == "", "given up on the way out"


def _answer(ask):
    async def answer():
        return ask()

    return answer


async def _holder(world):
    lease = await world.client.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/skerry-operator")
    return lease["spec"]["holderIdentity"]


async def test_it_outlives_the_api_server(world):
    """Watches break and come back; whatever was created is bound, and no node is called lost for the server's silence."""
    await world.add_node("n1")
    world.start_operator()
    await world.create("a", cpu="10m")
    await _until("bound", lambda: world.is_bound("a"))
    world.plane.restart_apiserver()
    if not world.operators[0].is_running:
        world.start_operator()  # its Lease ran out meanwhile: a Deployment starts it again
    await _until("created", lambda: world.create("b", cpu="10m"))
    await _until("bound", lambda: world.is_bound("b"))
    assert await world.node_ready("n1") == ("True", "Ok")
