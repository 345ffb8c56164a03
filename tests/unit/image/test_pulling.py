"""Pulling from an honest registry: what is fetched, once, by whom, and what is visible when."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import Any

import pytest
from aiohttp import web

from skerry_node.image import access, base, pulling, reference, store
from skerry_node.image.registry import client, hosts, manifests, transport
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, AddressRefused, NotInRegistry, PlatformMissing, RegistryUnavailable
from tests.fakes.registry import Registry
from tests.harness import images

BELOW = images.make_tar({"etc/a": b"below"})
ABOVE = images.make_tar({"etc/b": b"above"})
QUICK = transport.Timing(
    connect_seconds=2, stall_seconds=0.5, attempts=4, first_backoff_seconds=0.01, max_backoff_seconds=0.05, max_retry_after_seconds=2
)


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@contextlib.asynccontextmanager
async def opened(kept, directory=None, *, timing=QUICK):
    puller = pulling.Puller(kept, client.Client(hosts.Hosts(directory), timing=timing))
    try:
        yield puller
    finally:
        await puller.close()


async def pull(kept, text, directory=None, **options: Any):
    async with opened(kept, directory) as puller:
        return await puller.pull(reference.parse(text), is_named=directory is None, **options)


def layer_files(kept):
    return sorted(name for name in os.listdir(kept.layers_dir) if name != base.NAME)


async def test_an_image_by_tag_and_by_digest(kept):
    """It is found under the reference that was asked for, with manifest and config kept byte for byte."""
    async with Registry() as registry:
        described = registry.put_image(BELOW, ABOVE)
        image = await pull(kept, registry.reference())
        assert (image.digest, kept.find(registry.reference())) == (described["digest"], image)
        assert kept.blobs.read(image.digest) == registry.manifests["1"][0]
        assert layer_files(kept) == sorted(layer.path for layer in image.layers)
        by_digest = await pull(kept, f"{registry.host}/team/app@{described['digest']}")
        assert (by_digest.digest, by_digest.is_local) == (image.digest, False)


async def test_an_index_leads_to_this_machine(kept):
    """By os, architecture and variant; attestations are no platform."""
    async with Registry() as registry:
        described, here = registry.put_image(BELOW), manifests.this_platform()
        strange = registry.put_image(ABOVE, tag="strange", config={"architecture": "s390x"})
        entries = [
            {**strange, "platform": {"os": "linux", "architecture": "s390x"}},
            {**strange, "platform": {"os": "unknown", "architecture": "unknown"}},
            {**described, "platform": {"os": "linux", "architecture": here.architecture}},
        ]
        index = {"schemaVersion": 2, "mediaType": manifests.INDEX, "manifests": entries}
        registry.put_manifest(index, "all", media_type=manifests.INDEX)
        image = await pull(kept, registry.reference("all"))
        assert image.digest == described["digest"]
        registry.put_manifest({**index, "manifests": entries[:2]}, "others", media_type=manifests.INDEX)
        with pytest.raises(PlatformMissing, match=f"not there for linux/{here.architecture}, only for linux/s390x"):
            await pull(kept, registry.reference("others"))
        with pytest.raises(PlatformMissing, match="made for linux/s390x"):
            await pull(kept, registry.reference("strange"))


async def test_a_second_image_moves_only_its_own_layers(kept):
    """What is here is not asked for."""
    async with Registry() as registry:
        registry.put_image(BELOW, tag="1")
        registry.put_image(BELOW, ABOVE, tag="2")
        await pull(kept, registry.reference("1"))
        registry.seen.clear()
        image = await pull(kept, registry.reference("2"))
        blobs = [path for path in registry.paths() if "/blobs/" in path]
        assert sorted(path.rsplit("/", 1)[1] for path in blobs) == sorted([image.config_blob.digest, image.layers[1].blob.digest])


async def test_a_tag_that_stands_for_the_same_moves_nothing(kept):
    """One request, for the manifest; the image is the one that is here. When the tag moves, it is another."""
    async with Registry() as registry:
        registry.put_image(BELOW)
        first = await pull(kept, registry.reference())
        registry.seen.clear()
        assert await pull(kept, registry.reference()) is first
        assert registry.paths() == ["/v2/team/app/manifests/1"]
        registry.put_image(ABOVE)
        second = await pull(kept, registry.reference())
        assert second.digest != first.digest
        assert layer_files(kept) == [second.layers[0].path]


async def test_many_waiters_one_fetch(kept):
    """Ten pulls at once of one image ask once; two images over one base fetch it once."""
    async with Registry() as registry:
        registry.put_image(BELOW, tag="1")
        registry.put_image(BELOW, ABOVE, tag="2")
        async with opened(kept) as puller:
            wanted = [reference.parse(registry.reference(tag)) for tag in "1112221112"]
            found = await asyncio.gather(*(puller.pull(each, is_named=True) for each in wanted))
        assert len({image.digest for image in found}) == 2
        assert sorted(registry.paths()) == sorted(set(registry.paths()))


async def test_a_waiter_that_leaves_stops_nobody_and_the_last_one_ends_it(kept):
    """A fetch goes on for those who still wait; without any it ends, and leaves nothing."""
    gate = asyncio.Event()

    async def hold(request, content, media_type):
        if "/blobs/" in request.path:
            await gate.wait()

    async with Registry() as registry, opened(kept) as puller:
        registry.put_image(BELOW)
        registry.lies.append(hold)
        wanted = reference.parse(registry.reference())
        first, second = (asyncio.ensure_future(puller.pull(wanted, is_named=True)) for _ in range(2))
        await _until(lambda: any("/blobs/" in path for path in registry.paths()))
        first.cancel()
        await asyncio.wait({first})
        gate.set()
        assert (await second).reference == str(wanted)
        gate.clear()
        registry.put_image(ABOVE, tag="2")
        alone = asyncio.ensure_future(puller.pull(reference.parse(registry.reference("2")), is_named=True))
        await _until(lambda: sum("/blobs/" in path for path in registry.paths()) == 3)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        assert kept.find(registry.reference("2")) is None
        assert len(layer_files(kept)) == 1


async def test_a_slow_registry_holds_up_nobody_else(kept):
    """Every layer of one pull hangs; another's come."""
    gate = asyncio.Event()

    async def hold(request, content, media_type):
        if "/blobs/" in request.path and len(content) < 1000 and b"diff_ids" not in content:
            await gate.wait()

    tars = [images.make_tar({f"etc/{number}": b"x"}) for number in range(pulling.CONVERSIONS + 1)]
    slow_timing = dataclasses.replace(QUICK, stall_seconds=30)
    async with Registry() as slow, Registry() as quick, opened(kept, timing=slow_timing) as puller:
        slow.put_image(*tars)
        slow.lies.append(hold)
        quick.put_image(ABOVE)
        waiting = asyncio.ensure_future(puller.pull(reference.parse(slow.reference()), is_named=True))
        await _until(lambda: sum("/blobs/" in path for path in slow.paths()) > pulling.CONVERSIONS)
        assert (await puller.pull(reference.parse(quick.reference()), is_named=True)).reference == quick.reference()
        assert not waiting.done()
        gate.set()
        assert len((await waiting).layers) == len(tars)


async def test_progress_is_a_value(kept):
    """Nothing is known at first; then bytes count up to what the manifest says."""
    async with Registry() as registry:
        registry.put_image(BELOW, ABOVE)
        reads = []
        await pull(kept, registry.reference(), watch=reads.append)
        final = reads[0]()
        assert final.received_bytes == final.total_bytes == sum(layer.size_bytes for layer in final.layers)
        assert final.describe().endswith("2 of 2 layers done")
        registry.put_image(BELOW, ABOVE, tag="2")
        await pull(kept, registry.reference("2"), watch=reads.append)
        assert (reads[1]().total_bytes, [layer.was_here for layer in reads[1]().layers]) == (0, [True, True])


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_credentials_open(kept, scheme):
    """The right one opens; none, a wrong one and another host's do not, in the registry's words; and nothing is visible then."""
    async with Registry(users={"alice": "secret"}) as registry:
        registry.realm = f"{registry.url}/token" if scheme == "bearer" else ""
        registry.put_image(BELOW)
        wrong = Credential(host=registry.host, username="alice", password="wrong")
        foreign = Credential(host="127.0.0.1", username="alice", password="secret")
        elsewhere = Credential(host=registry.host, path="team/other", username="alice", password="secret")
        for credentials in ((), (wrong,), (foreign,), (elsewhere,)):
            with pytest.raises(AccessDenied, match=r"UNAUTHORIZED: (authentication required|incorrect username)"):
                await pull(kept, registry.reference(), credentials=credentials)
            assert (kept.images, layer_files(kept)) == ((), [])
        right = Credential(host=registry.host, username="alice", password="secret")
        image = await pull(kept, registry.reference(), credentials=(wrong, right))
        wanted = reference.parse(registry.reference())
        assert [access.is_proved(kept, image, wanted, each) for each in ((), (wrong,), (right,))] == [False, False, True]
        assert "secret" not in repr(right)


async def test_who_has_not_proved_access_must(kept):
    """A HEAD of the manifest by its digest opens a cached private image to another; closed when the registry is away; open to all if it is public."""
    async with Registry(users={"alice": "secret", "bob": "other"}) as registry, opened(kept) as puller:
        registry.put_image(BELOW)
        wanted = reference.parse(registry.reference())
        alice, bob, eve = (
            Credential(host=registry.host, username=name, password=password)
            for name, password in (("alice", "secret"), ("bob", "other"), ("eve", "x"))
        )
        image = await puller.pull(wanted, credentials=[alice], is_named=True)
        await puller.prove(image, wanted, credentials=[bob], is_named=True)
        assert registry.seen[-1].method == "HEAD"
        assert registry.seen[-1].path.endswith(image.digest)
        assert access.is_proved(kept, image, wanted, [bob])
        with pytest.raises(AccessDenied):
            await puller.prove(image, wanted, credentials=[eve], is_named=True)
        await registry.stop()
        with pytest.raises(RegistryUnavailable):
            await puller.prove(image, wanted, credentials=[eve], is_named=True)
        assert not access.is_proved(kept, image, wanted, [eve])
        other = reference.parse(f"{registry.host}/eve/app@{image.digest}")
        assert not access.is_proved(kept, image, other, [alice])
        with contextlib.suppress(NotInRegistry):
            registry.users.clear()
        async with registry:
            await puller.prove(image, wanted, is_named=True)
        assert access.is_public(kept, image, wanted)


async def test_a_broken_transfer_goes_on_where_it_broke(kept):
    """By range; no byte comes twice."""
    big = images.make_tar({"big": os.urandom(1 << 20)})
    cut = 300_000

    async def breaks(request, content, media_type):
        if len(content) < 1 << 19 or "Range" in request.headers:
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[:cut])
        request.transport.abort()
        return response

    async with Registry() as registry:
        described = registry.put_image(big)
        registry.lies.append(breaks)
        image = await pull(kept, registry.reference())
        ranges = [each.headers["Range"] for each in registry.seen if "Range" in each.headers]
        assert image.digest == described["digest"]
        assert len(ranges) == 1
        assert 0 < int(ranges[0].removeprefix("bytes=").removesuffix("-")) <= cut


async def test_a_host_without_ranges_begins_anew(kept):
    """Then what came already is left out."""
    big = images.make_tar({"big": os.urandom(1 << 20)})
    broken = []

    async def breaks(request, content, media_type):
        if len(content) < 1 << 19:
            return None
        if broken:
            return web.Response(body=content)
        broken.append(True)
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[:300_000])
        request.transport.abort()
        return response

    async with Registry() as registry:
        registry.put_image(big)
        registry.lies.append(breaks)
        await pull(kept, registry.reference())
        assert len(kept.images) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_registry_is_waited_for(kept, status):
    """Retry-After says how long; more than we have is an error with its words."""
    answers = []

    async def busy(request, content, media_type):
        if len(answers) < 2:
            answers.append(status)
            return web.json_response({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}, status=status, headers={"Retry-After": "0"})
        return None

    async with Registry() as registry:
        registry.put_image(BELOW)
        registry.lies.append(busy)
        await pull(kept, registry.reference())
        assert len(answers) == 2

        async def never(request, content, media_type):
            return web.json_response(
                {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}, status=status, headers={"Retry-After": "3600"}
            )

        registry.lies[:] = [never]
        registry.seen.clear()
        with pytest.raises(RegistryUnavailable, match=f"answers {status}: TOOMANYREQUESTS: slow down"):
            await pull(kept, registry.reference())
        assert len(registry.seen) == 1


async def test_mirrors_fail_over(kept, tmp_path):
    """A mirror that is away, or lies, is passed over; the registry's own words are told when it fails too."""
    async with Registry() as origin, Registry() as mirror:
        origin.put_image(BELOW)
        mirror.put_image(BELOW)
        directory = tmp_path / "certs.d" / "images.example.com"
        directory.mkdir(parents=True)
        text = f'server = "{origin.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n'
        (directory / "hosts.toml").write_text(text)
        wanted = "images.example.com/team/app:1"

        async def lie(request, content, media_type):
            return web.Response(body=bytes(len(content))) if "/blobs/" in request.path else None

        await pull(kept, wanted, str(tmp_path / "certs.d"))
        assert origin.seen == []
        assert mirror.seen[0].query == "ns=images.example.com"
        kept.remove(wanted)
        mirror.lies.append(lie)
        await pull(kept, wanted, str(tmp_path / "certs.d"))
        kept.remove(wanted)
        await mirror.stop()
        await pull(kept, wanted, str(tmp_path / "certs.d"))
        origin.manifests.clear()
        kept.remove(wanted)
        with pytest.raises(NotInRegistry, match=r"MANIFEST_UNKNOWN: manifest unknown; before that: .* does not answer"):
            await pull(kept, wanted, str(tmp_path / "certs.d"))


async def test_this_machine_is_no_registry_unless_the_operator_says_so(kept):
    """A reference of a tenant does not reach loopback."""
    async with Registry() as registry, opened(kept) as puller:
        registry.put_image(BELOW)
        with pytest.raises(AddressRefused, match="--registry-config"):
            await puller.pull(reference.parse(registry.reference()))
        assert registry.seen == []


async def test_layers_of_all_kinds(kept):
    """Plain, gzip and zstd; Docker's names and OCI's."""
    zstandard = pytest.importorskip("zstandard")
    docker = {"mediaType": manifests.DOCKER_MANIFEST}
    kinds = {
        "plain": ("application/vnd.oci.image.layer.v1.tar", lambda tar: tar),
        "zstd": ("application/vnd.oci.image.layer.v1.tar+zstd", zstandard.ZstdCompressor().compress),
    }
    async with Registry() as registry:
        for number, (name, (media_type, pack)) in enumerate(kinds.items()):
            tar = images.make_tar({"kind": name.encode() * 3, "number": bytes([number])})

            def change(raw, media_type=media_type, pack=pack, tar=tar):
                raw["layers"][0] = {"mediaType": media_type, **registry.put(pack(tar))}

            registry.put_image(tar, tag=name, change=change)
            assert len((await pull(kept, registry.reference(name))).layers) == 1

        def as_docker(raw):
            raw |= docker
            raw["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
            raw["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"

        registry.put_image(BELOW, tag="docker", change=as_docker)
        registry.manifests["docker"] = (registry.manifests["docker"][0], manifests.DOCKER_MANIFEST)
        assert (await pull(kept, registry.reference("docker"))).media_type == manifests.DOCKER_MANIFEST


async def _until(is_done):
    for _ in range(500):
        if is_done():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError
