"""A directory of manifests in the API server's place: what the files say is what the watcher is told."""

import asyncio
import contextlib
import dataclasses
import json
import os

import pytest
import yaml

from skerry_api import sandbox as api
from skerry_api.errors import InvalidManifest
from skerry_node import manifests, sources
from skerry_node.standalone import documents, errors


def manifest(name="hello", *, namespace=None, **spec: object):
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "skerry.dev/v1alpha1",
        "kind": "Sandbox",
        "metadata": metadata,
        "spec": {"image": "busybox:latest", **spec},
    }


class World:
    """The two directories, and agents that come and go over them."""

    def __init__(self, path) -> None:
        self.manifests = path / "manifests"
        self.status = path / "status"
        self.manifests.mkdir()
        self.count = 0
        self.agents = contextlib.AsyncExitStack()

    def write(self, file, *documents_: object):
        text = yaml.safe_dump_all(documents_)
        (self.manifests / f".{file}.tmp").write_text(text)
        os.rename(self.manifests / f".{file}.tmp", self.manifests / file)

    def remove(self, file):
        (self.manifests / file).unlink()

    def source(self):
        return manifests.ManifestSource(
            str(self.manifests),
            str(self.status),
            node_name="node-1",
            poll_seconds=0.005,
            now=lambda: "2026-01-31T12:00:00Z",
            new_uid=self._new_uid,
        )

    def _new_uid(self):
        self.count += 1
        return f"uid-{self.count}"


class Agent:
    """One watcher, as the loop is one."""

    def __init__(self, source) -> None:
        self.source = source
        self.changes = source.watch()

    async def next(self):
        return await asyncio.wait_for(anext(self.changes), 2)

    async def is_silent(self):
        task = asyncio.ensure_future(anext(self.changes))
        done, _ = await asyncio.wait([task], timeout=0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
            await task
        return not done


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def started(world):
    agent = Agent(world.source())
    return agent, await agent.next()


async def test_the_first_word_is_a_complete_list(world):
    """Files that are there when the agent starts are in the snapshot, with identity and defaults."""
    world.write("a.yaml", manifest("one"), manifest("two", namespace="other"))
    world.write("b.json", manifest("three"))
    world.write(".hidden.yaml", manifest("no"))
    world.write("notes.txt", manifest("no"))
    _, snapshot = await started(world)
    assert isinstance(snapshot, sources.Snapshot)
    found = {(s.metadata.namespace, s.metadata.name): s for s in snapshot.sandboxes}
    assert set(found) == {("default", "one"), ("default", "three"), ("other", "two")}
    one = found["default", "one"]
    assert (one.metadata.uid, one.metadata.generation) == ("uid-1", 1)
    assert one.metadata.creation_timestamp == "2026-01-31T12:00:00Z"
    assert one.spec.restart_policy is api.RestartPolicy.NEVER
    assert one.spec.node_name == "node-1"


async def test_files_that_come_change_and_go(world):
    """Creation, a change of spec with its generation, deletion until the finalizer goes, then a new identity."""
    agent, snapshot = await started(world)
    assert snapshot == sources.Snapshot(())
    world.write("a.yaml", manifest())
    created = (await agent.next()).sandbox
    assert created.metadata.uid == "uid-1"
    world.write("a.yaml", manifest(desiredState="Stopped"))
    changed = (await agent.next()).sandbox
    assert (changed.metadata.uid, changed.metadata.generation) == ("uid-1", 2)
    assert changed.spec.desired_state is api.DesiredState.STOPPED
    world.remove("a.yaml")
    deleted = (await agent.next()).sandbox
    assert deleted.metadata.deletion_timestamp == "2026-01-31T12:00:00Z"
    assert deleted.spec == changed.spec
    world.write("a.yaml", manifest())
    assert await agent_is_silent(world, agent)
    await agent.source.remove_finalizer(deleted)
    assert await agent.next() == sources.Gone("uid-1")
    assert (await agent.next()).sandbox.metadata.uid == "uid-2"


async def agent_is_silent(_, agent):
    """Nothing for a while; looks at the queue, because a cancelled watch is over."""
    for _ in range(5):
        agent.source._shelf.scan()
        await asyncio.sleep(0)
    return not agent.source._shelf.changes


async def test_rewriting_the_same_is_no_change(world):
    """Touching, moving and rewriting a file with the same content says nothing."""
    world.write("a.yaml", manifest())
    agent, _ = await started(world)
    world.write("a.yaml", manifest())
    world.write("b.yaml", manifest())
    world.remove("a.yaml")
    assert await agent_is_silent(world, agent)
    assert [s.metadata.uid for s in agent.source.sandboxes()] == ["uid-1"]


@pytest.mark.parametrize("moment", ["never", "created", "changed", "stopped", "deleted", "half deleted"])
async def test_an_agent_that_starts_again_sees_the_same(world, moment):
    """Whatever happened before, the next agent's snapshot is what the last one knew and the files say."""
    agent, _ = await started(world)
    source = agent.source
    if moment != "never":
        sandbox = await source.create(manifest())
        await source.write_status(sandbox, status=with_digest(sandbox, "sha256:1"))
    if moment == "changed":
        world.write("default.hello.yaml", manifest(env=[{"name": "A", "value": "b"}]))
    if moment == "stopped":
        await source.set_desired_state(sandbox, state=api.DesiredState.STOPPED, grace_seconds=3)
    if moment == "deleted":
        await source.delete(sandbox)
    if moment == "half deleted":  # killed between the file's removal and the record
        world.remove("default.hello.yaml")
    source._shelf.scan()
    if moment == "half deleted":
        source._shelf.scan()
    _, snapshot = await started(world)
    assert snapshot.sandboxes == source.sandboxes()
    if moment != "never":
        assert snapshot.sandboxes[0].status.image_digest == "sha256:1"
        assert (snapshot.sandboxes[0].metadata.deletion_timestamp is not None) == ("deleted" in moment)


def with_digest(sandbox, digest):
    return dataclasses.replace(sandbox.status, image_digest=digest, observed_generation=1)


async def test_a_broken_edit_keeps_what_runs(world):
    """A file that cannot be read any more deletes nothing; it is reported once, and mending it ends the matter."""
    world.write("a.yaml", manifest())
    agent, _ = await started(world)
    (world.manifests / "a.yaml").write_text("kind: Sandbox\n  broken: [")
    problem = await agent.next()
    assert isinstance(problem, sources.Invalid)
    assert "a.yaml" in problem.problem
    assert "line 2" in problem.problem
    assert await agent_is_silent(world, agent)
    world.write("a.yaml", manifest())
    assert await agent_is_silent(world, agent)
    assert agent.source.problems() == ()
    assert [s.metadata.deletion_timestamp for s in agent.source.sandboxes()] == [None]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        pytest.param(manifest(restartPolicy="Sometimes"), "spec.restartPolicy", id="unknown word"),
        pytest.param({**manifest(), "kind": "Pod"}, "kind", id="another kind"),
        pytest.param({**manifest(), "metadata": {}}, "metadata.name", id="no name"),
        pytest.param(manifest("../../etc"), "metadata.name", id="name is a path"),
        pytest.param(manifest(namespace="../x"), "metadata.namespace", id="namespace is a path"),
        pytest.param(manifest(nodeName="elsewhere"), "spec.nodeName", id="another node"),
        pytest.param(["a"], "document 1", id="no mapping"),
        pytest.param(manifest("a" * 200), "metadata.name", id="name too long for a file"),
        pytest.param(manifest(colour="red"), "spec.colour", id="unknown field"),
        pytest.param({**manifest(), "metadata": {"name": "a", "uid": "../x"}}, "metadata.uid", id="uid is a path"),
    ],
)
async def test_bad_documents_are_named_and_the_others_live(world, raw, field):
    """Each problem names its field; a good document beside it is not harmed."""
    world.write("a.yaml", raw)
    world.write("b.yaml", manifest("good"))
    agent, snapshot = await started(world)
    assert [s.metadata.name for s in snapshot.sandboxes] == ["good"]
    problem = await agent.next()
    assert isinstance(problem, sources.Invalid)
    assert field in problem.problem
    assert sorted(os.listdir(world.status / ".records")) == ["default.good.json"]


async def test_what_may_not_change_is_refused_and_the_old_stays(world):
    """The transition rules of the CRD hold without an API server."""
    world.write("a.yaml", manifest())
    agent, _ = await started(world)
    world.write("a.yaml", manifest(image="other:latest"))
    problem = await agent.next()
    assert (problem.uid, problem.name) == ("uid-1", "hello")
    assert problem.problem.startswith("spec.image")
    assert agent.source.sandboxes()[0].spec.image == "busybox:latest"


async def test_a_stop_that_cannot_take_effect_says_why(world):
    """While the file holds what is not allowed, a change of it is not pretended to count."""
    world.write("a.yaml", manifest())
    agent, snapshot = await started(world)
    world.write("a.yaml", manifest(image="other:latest"))
    with pytest.raises(errors.Unavailable, match=r"spec\.image"):
        await agent.source.set_desired_state(snapshot.sandboxes[0], state=api.DesiredState.STOPPED)


async def test_two_files_with_one_name_are_one_object(world):
    """The first file counts, the second is reported."""
    world.write("a.yaml", manifest())
    world.write("b.yaml", manifest())
    agent, snapshot = await started(world)
    assert len(snapshot.sandboxes) == 1
    assert "a.yaml" in (await agent.next()).problem


async def test_an_identity_given_by_hand_is_kept_and_never_shared(world):
    """A uid in the manifest is used; a second object may not have it; another uid is another object."""
    raw = {**manifest(), "metadata": {"name": "one", "uid": "mine", "generation": "junk"}, "status": {"phase": "junk"}}
    world.write("a.yaml", raw, {**raw, "metadata": {"name": "two", "uid": "mine"}})
    agent, snapshot = await started(world)
    assert [(s.metadata.name, s.metadata.uid) for s in snapshot.sandboxes] == [("one", "mine")]
    assert "metadata.uid" in (await agent.next()).problem
    world.write("a.yaml", {**raw, "metadata": {"name": "one", "uid": "other"}})
    deleted = (await agent.next()).sandbox
    assert deleted.metadata.uid == "mine"
    assert deleted.metadata.deletion_timestamp is not None
    await agent.source.remove_finalizer(deleted)
    assert await agent.next() == sources.Gone("mine")
    assert (await agent.next()).sandbox.metadata.uid == "other"


async def test_a_directory_that_is_away_deletes_nothing(world):
    """An unmounted directory is no empty directory."""
    world.write("a.yaml", manifest())
    agent, _ = await started(world)
    os.rename(world.manifests, f"{world.manifests}.away")
    assert isinstance(await agent.next(), sources.Invalid)
    assert [s.metadata.deletion_timestamp for s in agent.source.sandboxes()] == [None]
    with pytest.raises(errors.Unavailable):
        await agent.source.create(manifest("other"))


async def test_huge_odd_and_blocking_files_are_harmless(world):
    """Size is bounded before parsing, pipes and directories are not manifests."""
    (world.manifests / "big.yaml").write_bytes(b"a" * (documents.MAX_BYTES + 10))
    os.mkfifo(world.manifests / "pipe.yaml")
    (world.manifests / "dir.yaml").mkdir()
    (world.manifests / "latin.yaml").write_bytes(b"\xff\xfe\x00")
    agent, snapshot = await started(world)
    assert snapshot.sandboxes == ()
    assert {(await agent.next()).name, (await agent.next()).name} == {"big.yaml", "latin.yaml"}


async def test_create_writes_a_manifest_and_refuses_a_taken_name(world):
    """What the CLI asks for is a file like any other."""
    agent, _ = await started(world)
    sandbox = await agent.source.create({**manifest(), "status": {"phase": "Running"}})
    assert sandbox.metadata.uid == "uid-1"
    (file,) = os.listdir(world.manifests)
    assert file == "default.hello.yaml"
    assert "status" not in yaml.safe_load((world.manifests / file).read_text())
    assert (await agent.next()).sandbox == sandbox
    with pytest.raises(errors.AlreadyExists):
        await agent.source.create(manifest())
    await agent.source.delete(sandbox)
    assert os.listdir(world.manifests) == []
    with pytest.raises(errors.AlreadyExists, match="being deleted"):
        await agent.source.create(manifest())
    with pytest.raises(InvalidManifest):
        await agent.source.create(manifest("bad name"))


async def test_our_own_doors_look_at_no_other_file(world, monkeypatch):
    """Among many manifests a creation and a deletion cost what they cost among few; a person's change in between is seen all the same."""
    for number in range(5):
        world.write(f"{number}.yaml", manifest(f"other-{number}"))
    source = world.source()
    for _ in range(2):  # what was read once may have changed within the same tick
        source._shelf.scan()
    source._shelf.changes.clear()
    looks = []
    monkeypatch.setattr(source._shelf, "scan", lambda: looks.append(1))
    created = await source.create(manifest("own"))
    other = next(each for each in source.sandboxes() if each.metadata.name == "other-3")
    await source.delete(other)
    await source.remove_finalizer(other)
    told = [change.sandbox.metadata.name if isinstance(change, sources.Upsert) else change.uid for change in source._shelf.changes]
    assert (told, looks) == (["own", "other-3", other.metadata.uid], [])
    assert not (world.manifests / "3.yaml").exists()
    world.write("new.yaml", manifest("theirs"))
    monkeypatch.undo()
    await source.delete(created)
    assert {each.metadata.name for each in source.sandboxes()} == {"other-0", "other-1", "other-2", "other-4", "own", "theirs"}


async def test_deleting_twice_or_a_successor_does_nothing(world):
    """Identity is the uid: a call about an earlier object of this name does not touch the present one."""
    agent, _ = await started(world)
    source = agent.source
    first = await source.create(manifest())
    await source.delete(first)
    await source.delete(first)
    await source.remove_finalizer(first)
    second = await source.create(manifest())
    await source.delete(first)
    await source.remove_finalizer(first)
    await source.write_status(first, status=with_digest(first, "sha256:1"))
    assert source.sandboxes() == (second,)
    with pytest.raises(errors.NotFound):
        await source.set_desired_state(first, state=api.DesiredState.STOPPED)


async def test_status_is_a_file_for_people_and_goes_with_the_object(world):
    """The whole object with its status, and nothing is left after the finalizer."""
    agent, _ = await started(world)
    sandbox = await agent.source.create(manifest())
    await agent.source.write_status(sandbox, status=with_digest(sandbox, "sha256:1"))
    agent.source.post_event(sandbox, reason="Started", message="pid 5")
    agent.source.post_event(sandbox, reason="Started", message="pid 5")
    written = yaml.safe_load((world.status / "default.hello.yaml").read_text())
    assert written["metadata"]["uid"] == "uid-1"
    assert written["status"]["image"]["digest"] == "sha256:1"
    assert [(e.reason, e.count) for e in world.source().events(sandbox)] == [("Started", 2)]
    await agent.source.delete(sandbox)
    await agent.source.remove_finalizer(sandbox)
    assert os.listdir(world.status) == [".records"]
    assert os.listdir(world.status / ".records") == []


async def test_events_are_bounded(world):
    """A sandbox that restarts for ever keeps its last hundred events."""
    agent, _ = await started(world)
    sandbox = await agent.source.create(manifest())
    for number in range(250):
        agent.source.post_event(sandbox, reason="Restarted", message=str(number))
    kept = [event.message for event in agent.source.events(sandbox)]
    assert kept == [str(number) for number in range(150, 250)]
    assert len(json.loads((world.status / ".records" / "default.hello.events").read_text())) == 100


HAND_WRITTEN = """\
# the web server
apiVersion: skerry.dev/v1alpha1
kind: Sandbox
metadata: {name: web}
spec:
  image: busybox:latest  # pinned by tag
  env:
  - {name: A, value: "1"}
---
# and its friend
apiVersion: skerry.dev/v1alpha1
kind: Sandbox
metadata: {name: friend}
spec: {image: busybox:latest, desiredState: Running}
"""


async def test_a_persons_comments_survive_stop_and_rm(world):
    """Changes touch the one value that they are about."""
    (world.manifests / "mine.yaml").write_text(HAND_WRITTEN)
    agent, snapshot = await started(world)
    friend, web = snapshot.sandboxes
    await agent.source.set_desired_state(web, state=api.DesiredState.STOPPED)
    await agent.source.set_desired_state(friend, state=api.DesiredState.STOPPED, grace_seconds=2)
    text = (world.manifests / "mine.yaml").read_text()
    assert "# the web server" in text
    assert "image: busybox:latest  # pinned by tag" in text
    assert "spec:\n  desiredState: Stopped\n  image" in text
    assert '{"terminationGracePeriodSeconds": 2, image: busybox:latest, desiredState: "Stopped"}' in text
    assert {s.spec.desired_state for s in agent.source.sandboxes()} == {api.DesiredState.STOPPED}
    await agent.source.delete(web)
    text = (world.manifests / "mine.yaml").read_text()
    assert "name: friend" in text
    assert "name: web" not in text
    await agent.source.delete(friend)
    assert os.listdir(world.manifests) == []
