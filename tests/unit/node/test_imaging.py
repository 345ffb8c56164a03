"""Images for sandboxes: who starts with what is here, who waits for a registry, and what is said meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json

import pytest

from skerry_api.sandbox import ImagePullPolicy, Metadata, RestartPolicy, Sandbox, SandboxSpec
from skerry_node import errors, imaging
from skerry_node.image import importing, store
from skerry_node.image.pulling import Puller
from skerry_node.image.registry import client, hosts, transport
from tests.fakes.registry import Registry
from tests.harness import images

TAR = images.make_tar({"etc/a": b"x"})
QUICK = transport.Timing(connect_seconds=2, stall_seconds=1, attempts=1)


class Source:
    """Secrets and events."""

    def __init__(self) -> None:
        self.secrets = {}
        self.events = []
        self.is_away = False

    async def read_pull_secret(self, namespace, name):
        if self.is_away:
            raise errors.SourceUnavailable("the API server is away")
        return self.secrets.get((namespace, name))

    def post_event(self, sandbox, *, reason, message, warning=False):
        self.events.append((sandbox.metadata.uid, reason, message, warning))

    def reasons(self, uid="u"):
        return [reason for owner, reason, _, _ in self.events if owner == uid]


class World:
    """An Imaging over a store and a registry; `settle` waits until a sandbox is looked at again."""

    def __init__(self, kept, registry) -> None:
        self.registry = registry
        self.store = kept
        self.source = Source()
        self.pokes = asyncio.Queue()
        puller = Puller(kept, client.Client(hosts.Hosts(None), timing=QUICK))
        self.imaging = imaging.Imaging(kept, puller, self.source, poke=self.pokes.put_nowait, is_named=True)

    def sandbox(self, uid="u", *, image=None, policy=ImagePullPolicy.IF_NOT_PRESENT, secrets=(), namespace="default"):
        spec = SandboxSpec(image=image or self.registry.reference(), image_pull_policy=policy, image_pull_secrets=secrets)
        return Sandbox(metadata=Metadata(name=uid, uid=uid, namespace=namespace), spec=spec)

    def give(self, name, username, password, namespace="default"):
        auths = {"auths": {self.registry.host: {"username": username, "password": password}}}
        self.source.secrets[(namespace, name)] = json.dumps(auths).encode()

    async def settle(self, sandbox, attempt=0):
        """The admission after what was begun for it has ended."""
        first = self.imaging.admit(sandbox, attempt=attempt)
        if first.image is not None or first.problem.reason != imaging.PULLING:
            return first
        async with asyncio.timeout(10):
            while await self.pokes.get() != sandbox.metadata.uid:
                pass
        return self.imaging.admit(sandbox, attempt=attempt)


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@contextlib.asynccontextmanager
async def opened(kept, *, users=None):
    async with Registry(users=users or {}) as registry:
        registry.put_image(TAR)
        world = World(kept, registry)
        try:
            yield world
        finally:
            await world.imaging.close()


async def test_what_is_absent_is_pulled_beside_the_others(kept):
    """Pulling at once, with a look every 5 s; then the image, and events of both."""
    async with opened(kept) as world:
        sandbox = world.sandbox()
        first = world.imaging.admit(sandbox, attempt=0)
        assert (first.image, first.problem.reason, first.problem.condition) == (None, "Pulling", "ImageReady")
        assert first.problem.retry_at_seconds > 0
        found = await world.settle(sandbox)
        assert (found.image.reference, found.problem) == (world.registry.reference(), None)
        assert world.source.reasons() == ["Pulling", "Pulled"]
        world.registry.seen.clear()
        assert world.imaging.admit(world.sandbox("v"), attempt=0).image == found.image
        assert world.registry.seen == []


async def test_never_is_never(kept, tmp_path):
    """Not pulled; taken as soon as it is imported."""
    async with opened(kept) as world:
        sandbox = world.sandbox(policy=ImagePullPolicy.NEVER)
        assert world.imaging.admit(sandbox, attempt=0).problem.reason == "ImageNotFound"
        importing.import_layout(kept, images.write_layout(str(tmp_path / "l"), [TAR], name="x:1"), reference=sandbox.spec.image)
        assert world.imaging.admit(sandbox, attempt=0).image is not None
        assert world.registry.seen == []


async def test_always_asks_before_each_start(kept):
    """What the tag stands for now; once for an attempt, again for the next; a registry that is away holds the start."""
    async with opened(kept) as world:
        sandbox = world.sandbox(policy=ImagePullPolicy.ALWAYS)
        old = (await world.settle(sandbox)).image
        world.registry.put_image(TAR, images.make_tar({"etc/b": b"y"}))
        assert world.imaging.admit(sandbox, attempt=0).image == old
        new = (await world.settle(sandbox, attempt=1)).image
        assert (len(new.layers), new.digest == old.digest) == (2, False)
        await world.registry.stop()
        assert (await world.settle(sandbox, attempt=2)).problem.reason == "ImagePullFailed"


@pytest.mark.parametrize(
    ("image", "secrets", "says"),
    [
        pytest.param("{host}/team/app:absent", (), "answers 404: MANIFEST_UNKNOWN: manifest unknown", id="absent tag"),
        pytest.param("{host}/team/app:1", (), "answers 401: UNAUTHORIZED: authentication required", id="no secret"),
        pytest.param("{host}/team/app:1", ("wrong",), "answers 401: UNAUTHORIZED: authentication required", id="wrong secret"),
        pytest.param("{host}/team/app:1", ("gone",), r"secret default/gone does not exist, or is not of type", id="missing secret"),
        pytest.param("{host}/team/app:1", ("broken",), r"secret default/broken is no Docker config", id="broken secret"),
        pytest.param("127.0.0.1:1/team/app:1", (), "127.0.0.1:1 does not answer: Connect call failed", id="dead registry"),
    ],
)
async def test_a_failure_says_why(kept, image, secrets, says):
    """In the registry's words, with a time for the next try; and in an Event."""
    async with opened(kept, users={"alice": "secret"}) as world:
        if "absent" in image:
            world.registry.users.clear()
        world.give("wrong", "alice", "guess")
        world.source.secrets["default", "broken"] = b"{"
        sandbox = world.sandbox(image=image.format(host=world.registry.host), secrets=secrets)
        found = await world.settle(sandbox)
        assert (found.image, found.problem.reason, found.problem.is_lasting) == (None, "ImagePullFailed", False)
        assert says in found.problem.message
        assert world.source.events[-1][1] == "Failed"
        assert says in world.source.events[-1][2]
        assert "guess" not in repr((world.source.events, found))


async def test_failures_are_held_back_longer_and_longer(kept, monkeypatch):
    """10 s, 20 s, up to 5 minutes; another secret tries at once."""
    clock = [1000.0]
    monkeypatch.setattr(imaging, "_now", lambda: clock[0])
    async with opened(kept, users={"alice": "secret"}) as world:
        sandbox = world.sandbox()
        sandbox = dataclasses.replace(sandbox, spec=dataclasses.replace(sandbox.spec, restart_policy=RestartPolicy.ALWAYS))
        held = []
        for _ in range(7):
            found = await world.settle(sandbox)
            held.append(found.problem.retry_at_seconds - clock[0])
            asked = len(world.registry.seen)
            assert world.imaging.admit(sandbox, attempt=0).problem == found.problem  # not before its time
            assert len(world.registry.seen) == asked
            clock[0] = found.problem.retry_at_seconds
        assert held == [10, 20, 40, 80, 160, 300, 300]
        world.give("right", "alice", "secret")
        clock[0] -= 1000
        assert (await world.settle(world.sandbox(secrets=("right",)))).image is not None


async def test_what_is_never_restarted_is_given_up_after_three_refusals(kept, monkeypatch):
    """By the registry's own word; a registry that does not answer decides nothing."""
    clock = [1000.0]
    monkeypatch.setattr(imaging, "_now", lambda: clock[0])
    async with opened(kept, users={"alice": "secret"}) as world:
        sandbox, lasting = world.sandbox(), []
        for _ in range(3):
            found = await world.settle(sandbox)
            lasting.append(found.problem.is_lasting)
            clock[0] += 1000
        assert lasting == [False, False, True]
        asked = len(world.registry.seen)
        assert world.imaging.admit(sandbox, attempt=0).problem == found.problem
        assert len(world.registry.seen) == asked
        away = world.sandbox("away", image="127.0.0.1:1/team/app:1")
        for _ in range(4):
            assert not (await world.settle(away)).problem.is_lasting
            clock[0] += 1000


async def test_a_private_image_here_is_no_gift(kept):
    """Whoever has not proved access must, also under Never and for the digest; closed while the registry is away."""
    async with opened(kept, users={"alice": "secret", "bob": "other"}) as world:
        world.give("alice", "alice", "secret")
        world.give("bob", "bob", "other", namespace="other")
        image = (await world.settle(world.sandbox("a", secrets=("alice",)))).image
        assert image is not None
        for policy in (ImagePullPolicy.IF_NOT_PRESENT, ImagePullPolicy.NEVER):
            thief = await world.settle(world.sandbox(f"thief-{policy}", policy=policy, namespace="other"))
            assert (thief.image, thief.problem.reason) == (None, "ImagePullFailed")
        by_digest = f"{world.registry.host}/team/app@{image.digest}"
        assert (await world.settle(world.sandbox("d", image=by_digest, namespace="other"))).image is None
        bob = world.sandbox("b", secrets=("bob",), namespace="other")
        assert (await world.settle(bob)).image == image
        assert world.source.reasons("b") == []  # nothing was pulled
        await world.registry.stop()
        assert (await world.settle(dataclasses.replace(bob, metadata=Metadata(name="c", uid="c", namespace="other")))).image == image
        assert (await world.settle(world.sandbox("e", namespace="third"))).problem.reason == "ImagePullFailed"
        assert world.imaging.admit(bob, attempt=1).image == image  # what was proved holds over restarts


async def test_an_api_server_that_is_away_is_no_wrong_secret(kept):
    """Its words are told, and it is tried again."""
    async with opened(kept) as world:
        world.source.is_away = True
        found = await world.settle(world.sandbox(secrets=("s",)))
        assert (found.problem.reason, found.problem.message) == ("ImagePullFailed", "the API server is away")


async def test_who_is_gone_needs_no_image(kept):
    """Deleting the last sandbox that waits ends the fetch."""
    hold, arrived = asyncio.Event(), asyncio.Event()

    async def wait(request, content, media_type):
        arrived.set()
        await hold.wait()

    async with opened(kept) as world:
        world.registry.lies.append(wait)
        world.imaging.admit(world.sandbox(), attempt=0)
        await arrived.wait()
        world.imaging.forget("u")
        await asyncio.sleep(0.05)
        hold.set()
        await asyncio.sleep(0.05)
        assert (kept.images, world.pokes.empty(), len(world.registry.seen)) == ((), True, 1)


async def test_a_bug_is_held_back_too(kept, monkeypatch):
    """What nobody thought of is a failure like others: said, logged, and not tried without rest."""

    async def broken(*_: object, **__: object):
        raise ZeroDivisionError("a bug")

    async with opened(kept) as world:
        monkeypatch.setattr(world.imaging.puller, "pull", broken)
        found = await world.settle(world.sandbox())
        assert (found.problem.reason, found.problem.message) == ("ImagePullFailed", "a bug")
        assert found.problem.retry_at_seconds > imaging._now() + 5
