"""List and watch through every fault of the way: nothing is lost, nothing is made up, and nothing spins."""

import asyncio
import contextlib
import json
import time
from typing import Self

import pytest

from skerry_node.cluster import access, watching
from skerry_node.cluster.client import Client
from skerry_node.sources import Gone, Invalid, Snapshot, Upsert
from tests.fakes.apiserver import FakeApiServer

FAST = watching.Timing(watch=60, silence=0.3, list=2.0, shortest_pause=0.01, longest_pause=0.1)


class Follower:
    """One watch, what it told, and a way to wait for it."""

    def __init__(self, server, *, timing=FAST) -> None:
        self._client = Client(access.Access(server=server.url))
        self.watch = watching.Watch(self._client, "n1", timing=timing, fraction=lambda: 0.5)
        self.told: asyncio.Queue = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._client.close()

    async def _run(self):
        async for change in self.watch.changes():
            self.told.put_nowait(change)

    async def next(self, kind, *, seconds=3.0):
        change = await asyncio.wait_for(self.told.get(), seconds)
        assert isinstance(change, kind), change
        return change

    async def skip_to(self, kind, *, seconds=3.0):
        async with asyncio.timeout(seconds):
            while not isinstance(change := await self.told.get(), kind):
                pass
        return change


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


async def until(claim, *, seconds=3.0):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "did not come true"
        await asyncio.sleep(0.005)


async def watched(server):
    await until(lambda: bool(server._watchers))


def uids(snapshot):
    return {sandbox.metadata.uid for sandbox in snapshot.sandboxes}


async def test_first_a_snapshot_then_changes(server):
    """Ours only, as they come."""
    server.put("a", uid="u1")
    server.put("other", uid="u9", node="n2")
    async with Follower(server) as follower:
        assert uids(await follower.next(Snapshot)) == {"u1"}
        await watched(server)
        server.put("b", uid="u2")
        assert (await follower.next(Upsert)).sandbox.metadata.uid == "u2"
        server.drop("a")
        assert await follower.next(Gone) == Gone("u1")


async def test_an_empty_list_is_an_empty_snapshot(server):
    """Whether to believe it is the loop's to decide (law 7)."""
    async with Follower(server) as follower:
        assert (await follower.next(Snapshot)).sandboxes == ()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"{}", id="empty object"),
        pytest.param(b"<html>proxy</html>", id="not JSON"),
        pytest.param(b"[]", id="not an object"),
        pytest.param(b'{"kind":"SandboxList","metadata":{"resourceVersion":"5"}}', id="no items"),
        pytest.param(b'{"kind":"SandboxList","metadata":{},"items":[]}', id="no version"),
        pytest.param(b'{"kind":"PodList","metadata":{"resourceVersion":"5"},"items":[]}', id="another list"),
    ],
)
async def test_what_is_no_list_is_not_taken_for_an_empty_one(server, answer):
    """A proxy's 200 must not end every sandbox of the node."""
    server.put("a", uid="u1")
    server.garbage.append(answer)
    async with Follower(server) as follower:
        assert uids(await follower.next(Snapshot)) == {"u1"}
    assert server.seen["list"] == 2


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("kind", ["list", "watch"])
async def test_a_refusal_is_reported_and_tried_again(server, caplog, kind, code):
    """It says once what is wrong, and goes on when the server does."""
    server.refuse(kind, code, code, code)
    async with Follower(server) as follower:
        await watched(server)
        server.put("b", uid="u2")
        await follower.skip_to(Upsert)
    assert len([record for record in caplog.records if f": {code}: " in record.getMessage()]) == 1


async def test_an_expired_version_is_listed_again_within_two_seconds(server):
    """410, as the answer to a watch and as an event in one."""
    server.put("a", uid="u1")
    real = watching.Timing()
    async with Follower(server, timing=real) as follower:
        await follower.next(Snapshot)
        await watched(server)
        for expire in (_answer_410, _send_410):
            began = time.monotonic()
            expire(server)
            assert uids(await follower.skip_to(Snapshot)) == {"u1"}
            assert time.monotonic() - began < 2
            await watched(server)


def _answer_410(server):
    server.compact()
    server.end_watches()


def _send_410(server):
    server.send({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})


async def test_a_watch_that_ends_goes_on_where_it_was(server):
    """No list, and nothing that happened between the two is lost."""
    server.put("a", uid="u1")
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        server.put("b", uid="u2")
        await follower.next(Upsert)
        server.end_watches()
        server.put("c", uid="u3")
        assert (await follower.next(Upsert)).sandbox.metadata.uid == "u3"
    assert server.seen["list"] == 1


async def test_a_bookmark_moves_the_version(server):
    """A quiet watch does not fall behind: the next one starts from the bookmark."""
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        server.send({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "777"}}})
        await asyncio.sleep(0.05)
        server.end_watches()
        await until(lambda: len(server.watch_queries) == 2)
        assert server.watch_queries[1]["resourceVersion"] == "777"
        assert follower.told.empty()


async def test_a_restarted_server_is_found_again(server):
    """Refused connections, then back: the watch continues and brings what changed."""
    server.put("a", uid="u1")
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        await server.stop()
        server.put("b", uid="u2")
        await asyncio.sleep(0.2)
        assert follower.told.empty()
        await server.start()
        assert (await follower.skip_to(Upsert)).sandbox.metadata.uid == "u2"


async def test_a_black_holed_watch_is_noticed(server):
    """Nothing arrives, nothing breaks: after the silence a new watch brings what was missed."""
    server.put("a", uid="u1")
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        server.is_silent = True
        server.put("b", uid="u2")
        await asyncio.sleep(0.1)
        assert follower.watch.age_seconds > 0.05
        assert follower.told.empty()
        server.is_silent = False
        assert (await follower.next(Upsert)).sandbox.metadata.uid == "u2"


def test_silence_is_noticed_within_ninety_seconds():
    """The promise of the real timing: silence, then a connection that fails, then the longest pause."""
    timing = watching.Timing()
    assert timing.watch < timing.silence
    assert timing.silence + 5 + timing.longest_pause <= 90


async def test_events_that_come_together_give_the_newest_per_uid(server):
    """A mailbox holds one letter: what is overtaken is not told."""
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        for number in range(5):
            server.put("a", uid="u1", hostname=f"h{number}")
        told = [await follower.next(Upsert)]
        while told[-1].sandbox.spec.hostname != "h4":
            told.append(await follower.next(Upsert))
        assert len(told) <= 5
    watch = watching.Watch(Client(access.Access(server=server.url)), "n1")
    lines = [line for _, kind, body in server._history for line in [_event(kind, body)]]
    assert [change.sandbox.spec.hostname for change in watch._digest(lines)] == ["h4"]


def _event(kind, body):
    return json.dumps({"type": kind, "object": body}).encode()


async def test_an_event_cut_in_pieces_is_put_together(server):
    """Bytes come as they like."""
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        body = server.put("a", uid="u1")
        await follower.next(Upsert)
        line = _event("MODIFIED", {**body, "spec": {**body["spec"], "hostname": "late"}}) + b"\n"
        for place in range(0, len(line), 40):
            server.send_raw(line[place : place + 40])
            await asyncio.sleep(0.002)
        assert (await follower.next(Upsert)).sandbox.spec.hostname == "late"


async def test_rubbish_on_the_watch_is_a_broken_watch(server):
    """It is closed and begun anew; nothing is lost."""
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        server.send_raw(b"rubbish\n")
        server.put("a", uid="u1")
        assert (await follower.skip_to(Upsert)).sandbox.metadata.uid == "u1"


async def test_an_invalid_object_is_told_and_does_not_vanish(server):
    """What ran before the object went bad stays in the next snapshot, in its last good version."""
    server.put("a", uid="u1")
    async with Follower(server) as follower:
        await follower.next(Snapshot)
        await watched(server)
        server.put("a", uid="u1", hostname="NOT VALID")
        found = await follower.next(Invalid)
        assert (found.name, found.uid) == ("a", "u1")
        assert "spec.hostname" in found.problem
        _send_410(server)
        assert uids(await follower.skip_to(Snapshot)) == {"u1"}


async def test_a_status_of_another_version_hides_nothing(server):
    """After a downgrade a phase that we do not know must not make a running sandbox an orphan."""
    server.put("a", uid="u1", status={"phase": "Dreaming"})
    async with Follower(server) as follower:
        assert uids(await follower.next(Snapshot)) == {"u1"}


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(server):
    """Faults that repeat are met with pauses that grow."""
    async with Follower(server, timing=watching.Timing(shortest_pause=0.05, longest_pause=5.0)) as follower:
        await follower.next(Snapshot)
        server.refuse("watch", *[410] * 100)
        server.end_watches()
        await asyncio.sleep(1.0)
    assert server.seen["list"] <= 8
