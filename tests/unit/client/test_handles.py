"""A sandbox in hand, over the socket of an agent without a cluster: what runs, what cannot, and that nothing stays."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from skerry import Client, NotStarted, Refused, aio, handles


@pytest.fixture
def client(agent):
    return Client(agent.socket)


def _as(program):
    """What the stand-in for the kernel runs."""
    return {"args": [program]}


def test_one_that_runs_is_removed_at_the_end(client):
    """It runs inside the block and is gone behind it; its object has what was asked for."""
    with client.sandbox("busybox:latest", name="box", env={"A": "b"}, memory="64Mi", labels={"l": "v"}, spec=_as("sleep")) as box:
        found = box.read()
        assert (found.metadata.name, dict(found.metadata.labels)) == ("box", {"l": "v"})
        assert found.spec.resources.limits.memory_bytes == 64 << 20
    assert client.list() == ()


def test_the_end_and_the_output(client):
    """Wait tells how it ended, logs what it wrote; stop ends one that runs."""
    with client.sandbox("busybox:latest", spec=_as("fail")) as box:
        assert box.wait().exit_code == 37
        assert [(piece.stream, piece.data) for piece in box.logs()] == [("stdout", b"bad\n")]
    with client.sandbox("busybox:latest", spec=_as("sleep")) as box:
        assert box.stop().reason == "Stopped"
        assert box.start().metadata.name == box.name


@pytest.mark.parametrize(
    ("program", "words"),
    [pytest.param("missing", "CommandNotFound: .*no missing in the image", id="for good"), pytest.param("stuck", "has not started", id="in time")],
)
def test_one_that_does_not_start_says_why_and_is_removed(client, program, words):
    """NotStarted, with the condition's words."""
    with pytest.raises(NotStarted, match=words):
        client.sandbox("busybox:latest", spec=_as(program), timeout_seconds=0.5)
    assert client.list() == ()


def test_an_error_passes_and_removing_twice_is_fine(client):
    """Also when somebody else removed it first."""
    box = client.sandbox("busybox:latest", spec=_as("sleep"))
    with pytest.raises(ZeroDivisionError), box:
        raise ZeroDivisionError
    box.remove()
    with pytest.raises(Refused):
        box.read()


async def test_asyncio_has_the_same_verbs_and_a_call_can_be_given_up(client):
    """A wait that is cancelled returns at once; other calls go on meanwhile."""
    async with await aio.AsyncClient(client).sandbox("busybox:latest", spec=_as("sleep")) as box:
        waiting = asyncio.create_task(box.wait())
        assert [(piece.stream, piece.data) async for piece in box.logs()] == [("stdout", b"asleep\n")]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await box.read()).metadata.name == box.name
    assert client.list() == ()


async def test_errors_come_through_threads():
    """What the call raises is raised where it was awaited."""
    with pytest.raises(ZeroDivisionError):
        await aio.call(lambda: 1 // 0)


def test_stats_are_read_as_values():
    """The numbers by name, and the whole answer for what newer agents count."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    memory = {"usageBytes": 2, "workingSetBytes": 1, "peakBytes": None, "oomKills": 0}
    raw = {"time": now, "cpu": {"usageSeconds": 1.5, "throttledSeconds": 0.0}, "memory": memory, "pids": {"current": 3}, "disk": {"bytes": 7}}
    found = handles.parse_stats(raw)
    assert (found.cpu_seconds, found.memory_bytes, found.peak_bytes, found.pids, found.raw["disk"]) == (1.5, 2, None, 3, {"bytes": 7})


def test_the_package_offers_what_its_list_says():
    """Also what is imported only when it is asked for."""
    import skerry  # noqa: PLC0415 - the package itself

    assert all(getattr(skerry, name) for name in skerry.__all__)
    with pytest.raises(AttributeError):
        _ = skerry.nothing_of_this_name
