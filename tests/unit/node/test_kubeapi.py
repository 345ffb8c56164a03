"""The API server as the source of wants: what is written reaches the object that was meant, and no other."""

import asyncio
import contextlib
import datetime
import os

import pytest

from skerry_api.conditions import Condition
from skerry_api.node import NodeStatus, SandboxNode
from skerry_api.sandbox import Phase, SandboxStatus, parse_sandbox
from skerry_node import errors, kubeapi
from skerry_node.cluster import access, heartbeat
from skerry_node.cluster.client import Client
from skerry_node.settings import Settings
from tests.fakes.apiserver import GROUP, FakeApiServer

FINALIZER = "skerry.dev/node-cleanup"
PATH = f"{GROUP}/namespaces/default/sandboxes/a"
EVENTS = "/api/v1/namespaces/default/events/"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/skerry-system/leases/n1"


class Clock:
    def __init__(self) -> None:
        self.moment = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += datetime.timedelta(seconds=seconds)


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


@pytest.fixture
def clock():
    return Clock()


@contextlib.asynccontextmanager
async def opened(server, clock=None, *, identity="n1/one"):
    client = Client(access.Access(server=server.url))
    source = kubeapi.ClusterSource(Settings(node_name="n1"), client, identity=identity, now=clock or Clock())
    try:
        yield source
    finally:
        await source.close()


def condition(kind, status="True", reason="Fine"):
    return Condition(type=kind, status=status, reason=reason, last_transition_time="2026-01-31T12:00:00Z")


STATUS = SandboxStatus(observed_generation=1, phase=Phase.RUNNING, conditions=(condition("Scheduled"), condition("Ready")), address="10.88.0.5")


async def test_status_is_written_whole(server):
    """Fields that have no value any more are gone from the object."""
    sandbox = parse_sandbox(server.put("a", uid="u1", status={"phase": "Creating", "launchType": "Warm"}))
    async with opened(server) as source:
        await source.write_status(sandbox, status=STATUS)
    status = server.objects[PATH]["status"]
    assert status["phase"] == "Running"
    assert "launchType" not in status
    assert [each["type"] for each in status["conditions"]] == ["Scheduled", "Ready"]
    assert None not in status.values()


async def test_the_operators_condition_stays_as_it_is(server):
    """Scheduled is the operator's: the agent hands on what is there."""
    theirs = {"type": "Scheduled", "status": "True", "reason": "Spread", "message": "m", "lastTransitionTime": "t", "observedGeneration": 1}
    sandbox = parse_sandbox(server.put("a", uid="u1", status={"conditions": [theirs]}))
    async with opened(server) as source:
        await source.write_status(sandbox, status=STATUS)
    assert server.objects[PATH]["status"]["conditions"][0] == theirs


@pytest.mark.parametrize("verb", ["write_status", "remove_finalizer", "delete"])
@pytest.mark.parametrize("world", ["vanished", "made anew"])
async def test_a_write_meant_for_another_uid_touches_nothing(server, verb, world):
    """Names are reused by people: an object of the same name and another uid is left alone, and that is success."""
    sandbox = parse_sandbox(server.put("a", uid="u1", finalizers=(FINALIZER,)))
    if world == "made anew":
        server.put("a", uid="u2", finalizers=(FINALIZER,))
    else:
        server.drop("a")
    before = dict(server.objects)
    async with opened(server) as source:
        if verb == "write_status":
            await source.write_status(sandbox, status=STATUS)
        else:
            await getattr(source, verb)(sandbox)
    assert server.objects == before


@pytest.mark.parametrize(
    ("now_there", "left"),
    [
        pytest.param((FINALIZER,), [], id="all is well"),
        pytest.param(("other/one", FINALIZER), ["other/one"], id="somebody added one meanwhile"),
        pytest.param(("other/one",), ["other/one"], id="ours is gone already"),
    ],
)
async def test_only_our_finalizer_goes(server, now_there, left):
    """Whatever others put there stays."""
    sandbox = parse_sandbox(server.put("a", uid="u1", finalizers=(FINALIZER,)))
    server.put("a", uid="u1", finalizers=now_there)
    async with opened(server) as source:
        await source.remove_finalizer(sandbox)
    assert server.objects[PATH]["metadata"]["finalizers"] == left


@pytest.mark.parametrize("code", [401, 403, 422, 429, 500, 503])
async def test_a_refused_status_is_tried_again_by_the_caller(server, code):
    """What the server refuses now, it may take later: the error says so and names the code."""
    sandbox = parse_sandbox(server.put("a", uid="u1"))
    server.refuse("patch", code)
    async with opened(server) as source:
        with pytest.raises(errors.SourceUnavailable, match=str(code)):
            await source.write_status(sandbox, status=STATUS)
        await source.write_status(sandbox, status=STATUS)
    assert server.objects[PATH]["status"]["phase"] == "Running"


async def test_an_absent_server_is_no_crash(server):
    """Every writer says SourceUnavailable."""
    sandbox = parse_sandbox(server.put("a", uid="u1", finalizers=(FINALIZER,)))
    await server.stop()
    async with opened(server) as source:
        for call in (
            source.write_status(sandbox, status=STATUS), source.remove_finalizer(sandbox), source.delete(sandbox),
            source.write_node(SandboxNode(name="n1")), source.renew_lease(),
        ):  # fmt: skip
            with pytest.raises(errors.SourceUnavailable):
                await call
        source.post_event(sandbox, reason="Started", message="")


async def test_a_closed_connection_is_opened_again(server):
    """A server that restarted between two writes is no error of the second."""
    sandbox = parse_sandbox(server.put("a", uid="u1"))
    async with opened(server) as source:
        await source.write_status(sandbox, status=STATUS)
        await server.stop()
        await server.start()
        await source.write_status(sandbox, status=SandboxStatus(phase=Phase.STOPPED))
    assert server.objects[PATH]["status"]["phase"] == "Stopped"


async def until(claim, *, seconds=5.0):
    deadline = asyncio.get_running_loop().time() + seconds
    while not claim():
        assert asyncio.get_running_loop().time() < deadline, "did not come true"
        await asyncio.sleep(0.01)


def events_of(server):
    return [body for path, body in server.objects.items() if path.startswith(EVENTS)]


async def test_a_repeated_event_is_counted(server, clock):
    """The same reason on the same object within ten minutes is one Event; after that a new one."""
    sandbox = parse_sandbox(server.put("a", uid="u1"))
    async with opened(server, clock) as source:
        source.post_event(sandbox, reason="BackOff", message="first", warning=True)
        source.post_event(sandbox, reason="BackOff", message="second", warning=True)
        await until(lambda: [each["count"] for each in events_of(server)] == [2])
        clock.advance(60)
        source.post_event(sandbox, reason="BackOff", message="third", warning=True)
        await until(lambda: [(each["count"], each["message"]) for each in events_of(server)] == [(3, "third")])
        clock.advance(601)
        source.post_event(sandbox, reason="BackOff", message="later", warning=True)
        await until(lambda: [each["count"] for each in events_of(server)] == [3, 1])
    first = events_of(server)[0]
    assert (first["type"], first["involvedObject"]["uid"]) == ("Warning", "u1")
    assert (first["firstTimestamp"], first["lastTimestamp"]) == ("2026-01-31T12:00:00Z", "2026-01-31T12:01:00Z")


async def test_events_wait_for_the_server_and_the_oldest_are_dropped(server):
    """Posting never blocks; what is too much goes, the oldest first, and the rest is posted when the server is back."""
    sandbox = parse_sandbox(server.put("a", uid="u1"))
    server.refuse("post", *[503] * 1)
    await server.stop()
    async with opened(server) as source:
        for number in range(1100):
            source.post_event(sandbox, reason=f"R{number}", message="")
        await server.start()
        await until(lambda: len(events_of(server)) > 900, seconds=20)
        assert "R0" not in {each["reason"] for each in events_of(server)}


async def test_the_lease_is_made_then_renewed(server, clock):
    """The namespace is made where it is missing; a renewal is one write."""
    async with opened(server, clock) as source:
        await source.renew_lease()
        assert server.objects[LEASE]["spec"]["renewTime"] == "2026-01-31T12:00:00.000000Z"
        clock.advance(10)
        before = server.seen.total()
        await source.renew_lease()
        assert server.seen.total() - before == 2  # counted by kind and by path: one request
    spec = server.objects[LEASE]["spec"]
    assert (spec["holderIdentity"], spec["renewTime"], spec["leaseDurationSeconds"]) == ("n1/one", "2026-01-31T12:00:10.000000Z", 40)


@pytest.mark.parametrize(
    ("identity", "age", "is_refused"),
    [
        pytest.param("n1/one", 1, False, id="ourselves after a restart"),
        pytest.param("n1/two", 1, True, id="another one, alive"),
        pytest.param("n1/two", 39, True, id="another one, nearly gone"),
        pytest.param("n1/two", 41, False, id="another one, dead"),
    ],
)
async def test_a_living_agent_keeps_its_name(server, clock, identity, age, is_refused):
    """Two agents of one name would fight over the same sandboxes."""
    async with opened(server, clock) as source:
        await source.renew_lease()
    clock.advance(age)
    async with opened(server, clock, identity=identity) as second:
        if is_refused:
            with pytest.raises(errors.NodeNameTaken, match="--node-name"):
                await second.renew_lease()
        else:
            await second.renew_lease()
            assert server.objects[LEASE]["spec"]["holderIdentity"] == identity


async def test_an_agent_that_lost_its_name_notices(server, clock):
    """It was away, another took over: the next renewal says so."""
    async with opened(server, clock) as first, opened(server, clock, identity="n1/two") as second:
        await first.renew_lease()
        clock.advance(60)
        await second.renew_lease()
        with pytest.raises(errors.NodeNameTaken):
            await first.renew_lease()


def test_identity_outlives_restarts_and_differs_by_state_directory(tmp_path):
    """A restart or a reboot is the same agent; another directory is another one."""
    first = heartbeat.ensure_identity(str(tmp_path / "a"), "n1")
    assert heartbeat.ensure_identity(str(tmp_path / "a"), "n1") == first
    assert heartbeat.ensure_identity(str(tmp_path / "b"), "n1") != first
    assert os.listdir(tmp_path / "a") == ["identity"]


async def test_the_node_is_written_only_when_it_changed(server):
    """Created with its labels, then a status; people's spec and the times of unchanged conditions stay."""
    node = SandboxNode(name="n1", labels=(("zone", "a"),), status=NodeStatus(address="192.0.2.1", conditions=(condition("Ready"),)))
    path = f"{GROUP}/sandboxnodes/n1"
    async with opened(server) as source:
        await source.write_node(node)
        server.objects[path]["spec"]["unschedulable"] = True
        version = server.version
        later = Condition(type="Ready", status="True", reason="Fine", last_transition_time="2027-01-01T00:00:00Z")
        await source.write_node(SandboxNode(name="n1", labels=node.labels, status=NodeStatus(address="192.0.2.1", conditions=(later,))))
        assert server.version == version
        await source.write_node(SandboxNode(name="n1", labels=node.labels, status=NodeStatus(address="192.0.2.2")))
        assert server.version == version + 1
        assert server.objects[path]["spec"]["unschedulable"] is True
        del server.objects[path]
        await source.write_node(SandboxNode(name="n1", labels=node.labels, status=NodeStatus(address="192.0.2.3")))
        assert server.objects[path]["status"]["address"] == "192.0.2.3"
