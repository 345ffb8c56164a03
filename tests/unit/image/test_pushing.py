"""Pushing: what is sent and what is not, what a broken upload costs, and whose words a refusal repeats."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import pytest

from skerry_node.image import importing, pulling, pushing, reference, store
from skerry_node.image.registry import client, hosts, transport
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, NotInRegistry, RegistryError, RegistryLied, RegistryUnavailable
from tests.fakes.pushable import Pushable
from tests.fakes.registry import Registry
from tests.harness import images

BELOW = images.make_tar({"etc/a": b"below"})
ABOVE = images.make_tar({"etc/b": b"above"})
LARGE = images.make_tar({"large": random.Random(7).randbytes(70_000)})
QUICK = transport.Timing(
    connect_seconds=2, stall_seconds=0.5, attempts=4, first_backoff_seconds=0.01, max_backoff_seconds=0.05, max_retry_after_seconds=2
)


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@pytest.fixture
def image(kept, tmp_path):
    return importing.import_layout(kept, images.write_layout(str(tmp_path / "layout"), [BELOW, ABOVE, BELOW], name="one:1"))


@contextlib.asynccontextmanager
async def closing(opened):
    try:
        yield opened
    finally:
        await opened.close()


async def push(kept, image, text, *, origin=None, credentials=(), directory=None):
    """Every step, and the digest."""
    steps = []
    target = reference.parse(text)
    async with closing(client.Client(hosts.Hosts(directory), timing=QUICK)) as door:
        repository = door.open(target, credentials=credentials, is_named=True, actions="pull,push", needs="push")

        async def bring(blob):
            assert origin is not None
            await pushing.fetch(kept, blob, door.open(reference.parse(origin), is_named=True))

        digest = await pushing.push(kept, image, repository, target, bring=bring, emit=steps.append)
    return digest, [(step.what, step.digest) for step in steps if step.what != "uploading"]


async def test_a_pushed_image_is_there_byte_for_byte(kept, image):
    """Each blob once, the manifest last; pushed again, only the manifest is sent."""
    async with Pushable() as registry:
        digest, steps = await push(kept, image, registry.reference())
        assert digest == image.digest
        assert registry.manifests["1"] == (kept.blobs.read(image.digest), image.media_type)
        assert {blob: registry.blobs[blob] for blob in kept.blobs.list() if blob != digest} == registry.blobs
        assert len(steps) == 3
        assert {what for what, _ in steps} == {"pushed"}
        assert registry.seen[-1].path.endswith("/manifests/1")
        registry.seen.clear()
        _, steps = await push(kept, image, registry.reference())
        assert {what for what, _ in steps} == {"exists"}
        assert [each.method for each in registry.seen] == ["HEAD", "HEAD", "HEAD", "PUT"]


async def test_a_blob_of_the_same_registry_is_mounted(kept, tmp_path):
    """What was pulled from another repository there is not sent, nor fetched; a registry that will not is given it."""
    async with Pushable() as registry:
        registry.put_image(BELOW, ABOVE)
        async with closing(pulling.Puller(kept, client.Client(hosts.Hosts(None), timing=QUICK))) as puller:
            image = await puller.pull(reference.parse(registry.reference()), is_named=True)
        base = dataclasses.replace(image, reference=f"{registry.host}/team/base:1")
        kept.add(base)
        registry.others, registry.blobs = dict(registry.blobs), {}
        _, steps = await push(kept, base, registry.reference("2"))
        assert {what for what, _ in steps} == {"mounted"}
        assert registry.manifests["2"][0] == kept.blobs.read(image.digest)
        assert [each.method for each in registry.seen if each.method == "PATCH"] == []


async def test_what_is_not_here_comes_from_its_registry(kept):
    """A pulled image whose blobs are not kept is pushed elsewhere all the same, and nothing of it stays."""
    async with Registry() as source, Pushable() as registry:
        source.put_image(BELOW, ABOVE)
        async with closing(pulling.Puller(kept, client.Client(hosts.Hosts(None), timing=QUICK))) as puller:
            image = await puller.pull(reference.parse(source.reference()), is_named=True)
        assert not kept.blobs.has(image.layers[0].blob.digest)
        with kept.hold([], blobs=[blob.digest for blob in image.blobs]):
            await push(kept, image, registry.reference(), origin=source.reference())
            assert kept.blobs.has(image.layers[0].blob.digest)
        assert registry.blobs == source.blobs
        assert not kept.blobs.has(image.layers[0].blob.digest)


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        pytest.param([], None, id="all is well"),
        pytest.param([503], None, id="busy once"),
        pytest.param([429, None, 502, None, 500], None, id="busy now and then"),
        pytest.param(["lost"], None, id="an answer is lost"),
        pytest.param([None, "lost", None, "lost"], None, id="answers are lost in the middle"),
        pytest.param([None, None, "forget"], None, id="the registry forgets the upload"),
        pytest.param(["forget", "forget", "forget"], NotInRegistry, id="it forgets every upload"),
        pytest.param([503] * 4, RegistryUnavailable, id="busy for good"),
        pytest.param([413], RegistryError, id="it is too large"),
        pytest.param([403], AccessDenied, id="not allowed"),
    ],
)
async def test_a_broken_upload_goes_on(kept, tmp_path, monkeypatch, faults, error):
    """From where the registry has it, or anew; or it ends with the registry's own words."""
    monkeypatch.setattr(pushing, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(pushing, "_UPLOADS", 1)
    image = importing.import_layout(kept, images.write_layout(str(tmp_path / "large"), [LARGE], name="large"))
    async with Pushable(faults=faults) as registry:
        if error is None:
            await push(kept, image, registry.reference())
            assert registry.blobs[image.layers[0].blob.digest] == kept.blobs.read(image.layers[0].blob.digest)
            assert registry.manifests["1"][0] == kept.blobs.read(image.digest)
        else:
            with pytest.raises(error, match=r"127\.0\.0\.1"):
                await push(kept, image, registry.reference())
            assert registry.manifests == {}


@pytest.mark.parametrize("realm", [False, True], ids=["basic", "token"])
async def test_credentials_open_the_door(kept, image, realm):
    """Asked for with the scope to push; wrong ones are refused, and none of the blobs is there."""
    async with Pushable(users={"alice": "secret"}) as registry:
        registry.realm = f"{registry.url}/token" if realm else ""
        with pytest.raises(AccessDenied):
            await push(kept, image, registry.reference(), credentials=[Credential(host=registry.host, username="alice", password="wrong")])
        assert (registry.blobs, registry.manifests) == ({}, {})
        right = Credential(host=registry.host, username="alice", password="secret")
        assert (await push(kept, image, registry.reference(), credentials=[right]))[0] == image.digest
        if realm:
            assert any("scope=repository:team/app:pull,push" in each.query.replace("%3A", ":").replace("%2C", ",") for each in registry.seen)


async def test_a_registry_that_renames_is_told_of(kept, image):
    """Its digest for our manifest must be ours."""
    async with Pushable(told_digest="sha256:" + "0" * 64) as registry:
        with pytest.raises(RegistryLied, match="0000"):
            await push(kept, image, registry.reference())


async def test_a_host_that_takes_no_pushes_is_not_asked(kept, image, tmp_path):
    """As its hosts.toml says."""
    async with Pushable() as registry:
        (tmp_path / "certs.d" / f"127.0.0.1_{registry.port}_").mkdir(parents=True)
        (tmp_path / "certs.d" / f"127.0.0.1_{registry.port}_" / "hosts.toml").write_text(
            f'server = "{registry.url}"\ncapabilities = ["pull", "resolve"]\n'
        )
        with pytest.raises(RegistryError, match="takes pushes"):
            await push(kept, image, registry.reference(), directory=str(tmp_path / "certs.d"))
        assert registry.seen == []
