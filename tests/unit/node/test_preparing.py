"""SandboxImages on one node: what is meant for it is brought, once, and told; the API server and the registry are stand-ins, the store is real."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest

from skerry_api import image as api
from skerry_api.node import NodeStatus, SandboxNode
from skerry_node.build.errors import InvalidDockerfile
from skerry_node.image import importing, store
from skerry_node.image.registry.errors import NotInRegistry
from skerry_node.preparing import passes
from tests.harness import images

REFERENCE = "registry.example.com/app:1"


class Objects:
    """The API server's part."""

    def __init__(self, *found: api.SandboxImage, labels=(), prepared=()) -> None:
        self.known = {image.uid: image for image in found}
        self.node = SandboxNode(name="n1", labels=tuple(labels), status=NodeStatus(prepared=tuple(prepared)))
        self.layers, self.maps = [], {}

    async def follow(self, on_change):
        on_change()
        await asyncio.Event().wait()

    async def read_node(self):
        return self.node

    async def read_config_map(self, namespace, name):
        return self.maps.get((namespace, name))

    async def write_layers(self, image, digest, layers):
        self.layers.append((image.uid, digest, layers))
        self.known[image.uid] = dataclasses.replace(image, status=dataclasses.replace(image.status, layers_digest=digest))


class Node:
    """A node with a registry that has one image, and a builder that makes images of what it is given."""

    def __init__(self, kept, layout, directory) -> None:
        self.store, self._layout = kept, layout
        self.asked, self.built, self.problem, self.tellings = [], [], None, 0
        self.directory = str(directory)
        self.puller = self

    def read_node_credentials(self):
        return ()

    async def read_pull_secret(self, _namespace, _name):
        return None

    async def pull(self, wanted, *, credentials, watch=None):  # noqa: ARG002 - the fake needs none
        self.asked.append(str(wanted))
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        return importing.import_layout(self.store, self._layout, reference=str(wanted))

    async def build(self, request, _emit, *, find_image):
        self.built.append((request.dockerfile.decode(), sorted(request.context.root.inner), request.references))
        base = request.dockerfile.decode().split()[1]
        image = await find_image(base)
        return self.store.tag(image.reference, request.references[0])

    @contextlib.asynccontextmanager
    async def running(self, objects):
        def tell():
            self.tellings += 1

        agent = passes.Preparing(objects, self.store, self, self, self, node_name="n1", tell=tell)
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def node(tmp_path):
    layout = images.write_layout(str(tmp_path / "layout"), [images.make_tar({"a": b"a"})], name="base:1")
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as kept:
        yield Node(kept, layout, tmp_path)


def image(**changes: object):
    return api.SandboxImage(**{"namespace": "team", "name": "i", "uid": "u", "generation": 1, "reference": REFERENCE, "prepull": (), **changes})


def built(dockerfile=f"FROM {REFERENCE}\n", **changes: object):
    build = api.Build(tag="out:1", dockerfile=dockerfile, **changes)
    return image(reference=None, build=build, prepull=None, status=api.ImageStatus(node_name="n1"))


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


def states(agent):
    return [(each.object, each.generation, each.state) for each in agent.prepared or ()]


async def test_what_is_meant_for_the_node_is_pulled_once_and_told(node):
    """With digest and size; a second look asks nothing; the layers are told when the operator names the node."""
    objects = Objects(image(), image(uid="other", name="j", prepull=(("disk", "ssd"),)), image(uid="nobody", prepull=None))
    async with node.running(objects) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Pulled")])
        found = node.store.find(REFERENCE)
        assert (agent.prepared[0].digest, agent.prepared[0].size_bytes) == (found.digest, found.size_bytes)
        assert found.digest in agent.in_use()
        assert REFERENCE in agent.in_use()
        objects.known["u"] = image(status=api.ImageStatus(node_name="n1", digest=found.digest))
        for _ in range(3):
            agent._news.set()
            await asyncio.sleep(0.02)
        assert node.asked == [REFERENCE]
        assert [(uid, digest) for uid, digest, _ in objects.layers] == [("u", found.digest)]
        del objects.known["u"]
        agent._news.set()
        await until(lambda: states(agent) == [])
        assert node.tellings >= 2


async def test_labels_of_people_count(node):
    """Those that stand on the object now."""
    objects = Objects(image(prepull=(("disk", "ssd"),)))
    async with node.running(objects) as agent:
        await until(lambda: agent.prepared == ())
        objects.node = dataclasses.replace(objects.node, labels=(("disk", "ssd"),))
        agent._news.set()
        await until(lambda: states(agent) == [("team/i", 1, "Pulled")])


async def test_nothing_is_told_before_the_object_was_read(node):
    """What the last agent said would be lost."""
    agent = passes.Preparing(Objects(), node.store, node, node, node, node_name="n1", tell=lambda: None)
    assert agent.prepared is None


async def test_a_failure_is_told_and_tried_again_later(node, monkeypatch):
    """In the registry's words, not at once, and then it is forgotten."""
    monkeypatch.setattr(passes, "_FIRST_BACKOFF_SECONDS", 0.2)
    node.problem = NotInRegistry("manifest unknown")
    async with node.running(Objects(image())) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Failed")])
        assert agent.prepared[0].message == "manifest unknown"
        agent._news.set()
        await asyncio.sleep(0.02)
        assert len(node.asked) == 1
        node.problem = None
        await until(lambda: states(agent) == [("team/i", 1, "Pulled")])
        assert agent.prepared[0].message == ""


async def test_an_image_that_was_removed_comes_back(node):
    """Level-triggered: what counts is what is here."""
    async with node.running(Objects(image())) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Pulled")])
        node.store.remove(REFERENCE)
        agent._news.set()
        await until(lambda: node.store.find(REFERENCE) is not None and states(agent) == [("team/i", 1, "Pulled")])
        assert len(node.asked) == 2


async def test_a_build_is_done_by_the_chosen_node(node):
    """With its files, under a name of its namespace; by no other node."""
    objects = Objects(built(inline=(("a/b", "x"), ("f", "y"))), dataclasses.replace(built(), uid="v", status=api.ImageStatus(node_name="n2")))
    async with node.running(objects) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Built")])
    assert node.built == [(f"FROM {REFERENCE}\n", [b"a", b"f"], ("localhost/team/out:1",))]
    assert node.store.find("localhost/team/out:1") is not None


async def test_the_next_agent_does_not_build_again(node):
    """What was built is told by the object; a newer spec is built."""
    async with node.running(Objects(built())) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Built")])
        said = agent.prepared
    async with node.running(Objects(built(), prepared=said)) as agent:
        await until(lambda: agent.prepared == said)
        await asyncio.sleep(0.05)
        assert len(node.built) == 1
    async with node.running(Objects(dataclasses.replace(built(), generation=2), prepared=said)) as agent:
        await until(lambda: states(agent) == [("team/i", 2, "Built")])
    assert len(node.built) == 2


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        pytest.param(image(reference="localhost/other/secret:1"), "one's own namespace", id="another namespace's image"),
        pytest.param(built("FROM localhost/other/secret:1"), "one's own namespace", id="a build on it"),
        pytest.param(image(reference="UPPER"), "UPPER", id="no reference"),
        pytest.param(built(config_map="absent"), "configmap team/absent does not exist", id="no ConfigMap"),
        pytest.param(built(inline=(("../up", "x"),)), "up", id="a file that goes up"),
    ],
)
async def test_what_may_not_be_is_told(node, wanted, says):
    """And nothing is pulled or built."""
    importing.import_layout(node.store, node._layout, reference="localhost/other/secret:1")
    async with node.running(Objects(wanted)) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Failed")])
        assert says in agent.prepared[0].message
    assert node.store.find("localhost/team/out:1") is None


async def test_a_build_that_fails_is_told(node, monkeypatch):
    """With its line."""

    async def build(*_arguments: object, **_options: object):
        raise InvalidDockerfile("unknown instruction", line=3)

    monkeypatch.setattr(node, "build", build)
    async with node.running(Objects(built())) as agent:
        await until(lambda: states(agent) == [("team/i", 1, "Failed")])
        assert "line 3" in agent.prepared[0].message
