"""A registry that lies: no lie is visible in the store, none makes us wait for ever, none carries a credential away.

Canaries: the store's files before and after; a server on loopback that no reference, redirect or realm may reach; a stranger that waits for a
password. Each has its positive control: with the defence off, the canary fires.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from skerry_node.image import pulling, reference, store
from skerry_node.image.errors import ImageError
from skerry_node.image.registry import addresses, challenge, client, dialing, hosts, manifests, transport
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, AddressRefused, RegistryError, RegistryLied, RegistryUnavailable
from tests.fakes.registry import GZIP, Registry
from tests.harness import images

TAR = images.make_tar({"etc/big": os.urandom(1 << 20)})
OTHER = images.make_tar({"etc/other": b"other"})
QUICK = transport.Timing(
    connect_seconds=2, stall_seconds=0.3, attempts=3, first_backoff_seconds=0.01, max_backoff_seconds=0.02, max_retry_after_seconds=1
)


@contextlib.asynccontextmanager
async def opened(kept: store.Store, *, resolver: Any = None, directory: str | None = None):
    puller = pulling.Puller(kept, client.Client(hosts.Hosts(directory), timing=QUICK, resolver=resolver))
    try:
        yield puller
    finally:
        await puller.close()


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as found:
        yield found


def files(tmp_path) -> set[str]:
    """The canary: every file of the store."""
    return {os.path.join(path, name) for path, _, names in os.walk(tmp_path / "store") for name in names}


def blob_lie(answer: Callable[[bytes], Any]):
    """Lie about layers only."""

    async def lie(request: web.Request, content: bytes, _: str) -> Any:
        return await answer(request, content) if "/blobs/" in request.path and len(content) > 1 << 16 else None

    return lambda registry: registry.lies.append(lie)


def manifest_lie(answer: Callable[[web.Request, bytes, str], Any]):
    async def lie(request: web.Request, content: bytes, media_type: str) -> Any:
        return answer(request, content, media_type) if "/manifests/" in request.path else None

    return lambda registry: registry.lies.append(lie)


async def stream(request: web.Request, pieces: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    async for piece in pieces:
        await response.write(piece)
    return response


async def flipped(_: web.Request, content: bytes) -> Any:
    return web.Response(body=content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


async def flipped_head(_: web.Request, content: bytes) -> Any:
    return web.Response(body=b"\0" + content[1:])


async def zeros(_: web.Request, content: bytes) -> Any:
    return web.Response(body=bytes(len(content)))


async def longer(_: web.Request, content: bytes) -> Any:
    return web.Response(body=content + b"more")


async def shorter(_: web.Request, content: bytes) -> Any:
    return web.Response(body=content[:-1])


async def nothing(_: web.Request, content: bytes) -> Any:
    return web.Response(body=b"")


async def endless(request: web.Request, content: bytes) -> Any:
    async def pieces():
        while True:
            yield content

    return await stream(request, pieces())


async def trickle(request: web.Request, content: bytes) -> Any:
    async def pieces():
        for number in range(len(content)):
            yield content[number : number + 1]
            await asyncio.sleep(0.02)

    return await stream(request, pieces())


async def silence(_: web.Request, __: bytes) -> Any:
    await asyncio.sleep(3600)


async def silent_after_half(request: web.Request, content: bytes) -> Any:
    async def pieces():
        yield content[: len(content) // 2]
        await asyncio.sleep(3600)

    return await stream(request, pieces(), headers={"Content-Length": str(len(content))})


async def aborts(request: web.Request, content: bytes) -> Any:
    response = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    request.transport.abort()
    return response


def ranged(header: str, cut: Callable[[bytes, int], bytes]) -> Callable[[web.Request, bytes], Any]:
    """Break once, then answer the request for the rest with a wrong range."""

    async def answer(request: web.Request, content: bytes) -> Any:
        if "Range" not in request.headers:
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            request.transport.abort()
            return response
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        told = header.format(start=start, size=len(content), last=len(content) - 1, more=start + 1)
        return web.Response(status=206, body=cut(content, start), headers={"Content-Range": told})

    return answer


async def unwanted_range(_: web.Request, content: bytes) -> Any:
    return web.Response(status=206, body=content[10:], headers={"Content-Range": f"bytes 10-{len(content) - 1}/{len(content)}"})


async def empty_success(_: web.Request, __: bytes) -> Any:
    return web.Response(status=204)


def changed(change: Callable[[dict[str, Any]], None]):
    """Spoil the manifest."""

    def apply(registry: Registry) -> None:
        registry.manifests.clear()
        registry.put_image(TAR, change=change)

    return apply


def set_layer(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["layers"][0].update(fields)


def as_both(raw: dict[str, Any]) -> None:
    raw["manifests"] = []


def other_manifest(_: web.Request, content: bytes, media_type: str) -> Any:
    return web.Response(
        body=content + b" ", headers={"Content-Type": media_type, "Docker-Content-Digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    )


def index_of(change: Callable[[dict[str, Any]], None]):
    def apply(registry: Registry) -> None:
        described, here = registry.put_image(TAR, tag="inner"), manifests.this_platform()
        entry = {**described, "platform": {"os": "linux", "architecture": here.architecture}}
        change(entry)
        registry.put_manifest({"schemaVersion": 2, "mediaType": manifests.INDEX, "manifests": [entry]}, "1", media_type=manifests.INDEX)

    return apply


def nested_index(registry: Registry) -> None:
    platform = {"os": "linux", "architecture": manifests.this_platform().architecture}
    inner = registry.put_manifest({"schemaVersion": 2, "manifests": []}, "inner", media_type=manifests.INDEX)
    registry.put_manifest({"schemaVersion": 2, "manifests": [{**inner, "platform": platform}]}, "1", media_type=manifests.INDEX)


def config_of(**fields: Any):
    def apply(registry: Registry) -> None:
        registry.put_image(TAR, config=fields)

    return apply


def replaced_config(registry: Registry) -> None:
    raw = json.loads(registry.manifests["1"][0])
    registry.blobs[raw["config"]["digest"]] = registry.blobs[raw["config"]["digest"]].replace(b"linux", b"linuX")


LIES: list[Any] = [
    pytest.param(blob_lie(flipped), RegistryLied, id="one bit of the layer, near its end"),
    pytest.param(blob_lie(flipped_head), RegistryLied, id="the layer's first byte"),
    pytest.param(blob_lie(zeros), RegistryLied, id="zeros in place of the layer"),
    pytest.param(blob_lie(longer), RegistryLied, id="more bytes than promised"),
    pytest.param(blob_lie(shorter), RegistryUnavailable, id="a byte too few, and called complete"),
    pytest.param(blob_lie(nothing), RegistryUnavailable, id="an empty layer"),
    pytest.param(blob_lie(endless), RegistryLied, id="a stream that never ends"),
    pytest.param(blob_lie(trickle), RegistryUnavailable, id="a byte now and then"),
    pytest.param(blob_lie(silence), RegistryUnavailable, id="silence in place of an answer"),
    pytest.param(blob_lie(silent_after_half), RegistryUnavailable, id="silence after half of the layer"),
    pytest.param(blob_lie(aborts), RegistryUnavailable, id="a broken connection, each time"),
    pytest.param(
        blob_lie(ranged("bytes 0-{last}/{size}", lambda content, _: content)), RegistryLied, id="the whole in place of the rest, as a range"
    ),
    pytest.param(
        blob_lie(ranged("bytes {more}-{last}/{size}", lambda content, start: content[start + 1 :])), RegistryLied, id="a range one byte off"
    ),
    pytest.param(blob_lie(ranged("bytes {start}-{last}/9", lambda content, start: content[start:])), RegistryLied, id="a range of another size"),
    pytest.param(blob_lie(ranged("oranges", lambda content, start: content[start:])), RegistryLied, id="a range that is none"),
    pytest.param(blob_lie(ranged("bytes {start}-{last}/{size}", lambda c, s: c[: len(c) - s])), RegistryLied, id="the right range, of other bytes"),
    pytest.param(blob_lie(unwanted_range), RegistryLied, id="a range that nobody asked for"),
    pytest.param(blob_lie(empty_success), RegistryLied, id="success without content"),
    pytest.param(manifest_lie(other_manifest), RegistryLied, id="a manifest of another digest than it says"),
    pytest.param(
        manifest_lie(lambda *_: web.Response(body=b" " * (5 << 20), content_type=manifests.MANIFEST)), RegistryUnavailable, id="5 MiB of manifest"
    ),
    pytest.param(manifest_lie(lambda _, c, __: web.Response(body=c, content_type=manifests.INDEX)), RegistryLied, id="a manifest sent as an index"),
    pytest.param(manifest_lie(lambda _, c, __: web.Response(body=c, content_type="text/html")), RegistryLied, id="a manifest sent as a page"),
    pytest.param(changed(as_both), RegistryLied, id="manifest and index at once"),
    pytest.param(changed(lambda raw: raw.update(mediaType=manifests.INDEX)), RegistryLied, id="a manifest that calls itself an index"),
    pytest.param(changed(lambda raw: raw["config"].update(mediaType="application/x-other")), RegistryLied, id="an artifact that is no image"),
    pytest.param(changed(lambda raw: raw.update(layers=[raw["layers"][0]] * 501)), RegistryLied, id="501 layers"),
    pytest.param(changed(lambda raw: raw.update(layers=[])), RegistryLied, id="fewer layers than diff ids"),
    pytest.param(changed(set_layer(size=10)), RegistryLied, id="a size too small"),
    pytest.param(changed(set_layer(size=9 << 20)), RegistryError, id="a size too large"),
    pytest.param(changed(set_layer(size=-1)), RegistryLied, id="a size below nothing"),
    pytest.param(changed(set_layer(size=1 << 60)), RegistryLied, id="a size beyond all bounds"),
    pytest.param(changed(set_layer(digest="sha256:../../etc/passwd")), RegistryLied, id="a digest that is a path"),
    pytest.param(changed(set_layer(digest="md5:" + "0" * 32)), RegistryLied, id="a digest of a weak kind"),
    pytest.param(changed(set_layer(mediaType="application/vnd.oci.image.layer.v1.tar")), ImageError, id="gzip called plain tar"),
    pytest.param(changed(set_layer(mediaType=GZIP.replace("gzip", "zstd"))), ImageError, id="gzip called zstd"),
    pytest.param(changed(set_layer(urls=["http://169.254.169.254/x"])), RegistryLied, id="a foreign layer"),
    pytest.param(index_of(lambda entry: entry.update(size=entry["size"] + 1)), RegistryLied, id="an index that lies about a size"),
    pytest.param(index_of(lambda entry: entry.update(mediaType=manifests.DOCKER_MANIFEST)), RegistryLied, id="an index that lies about a type"),
    pytest.param(nested_index, RegistryLied, id="an index of an index"),
    pytest.param(config_of(rootfs={"diff_ids": ["sha256:" + "0" * 64]}), RegistryLied, id="another diff id"),
    pytest.param(config_of(rootfs={"diff_ids": ["../x"]}), ImageError, id="a diff id that is a path"),
    pytest.param(config_of(config={"Env": "A=b"}), ImageError, id="a config that means nothing"),
    pytest.param(replaced_config, RegistryLied, id="another config than the manifest's"),
]


@pytest.mark.parametrize(("lie", "expected"), LIES)
async def test_no_lie_is_visible(kept, tmp_path, lie, expected):
    """Each ends in an error of the right kind, and the store is as it was, to the file."""
    async with Registry() as registry, opened(kept) as puller:
        registry.put_image(TAR)
        lie(registry)
        before = files(tmp_path)
        with pytest.raises(expected):
            async with asyncio.timeout(120):
                await puller.pull(reference.parse(registry.reference()), is_named=True)
        assert (kept.images, files(tmp_path)) == ((), before)


async def test_the_honest_one_is_visible(kept, tmp_path):
    """Positive control: the canary of the store fires for what is no lie."""
    async with Registry() as registry, opened(kept) as puller:
        registry.put_image(TAR)
        before = files(tmp_path)
        await puller.pull(reference.parse(registry.reference()), is_named=True)
        assert (len(kept.images), files(tmp_path) - before != set()) == (1, True)


async def test_a_lie_does_not_hurt_what_is_here(kept, tmp_path):
    """An image that is here stays, whatever its registry says of it now."""
    async with Registry() as registry, opened(kept) as puller:
        registry.put_image(TAR)
        image = await puller.pull(reference.parse(registry.reference()), is_named=True)
        before = files(tmp_path)
        registry.put_image(TAR, OTHER)
        registry.lies.append(_zero_small)
        with pytest.raises(RegistryError):
            await puller.pull(reference.parse(registry.reference()), is_named=True)
        assert (kept.find(registry.reference()), files(tmp_path)) == (image, before)


async def _zero_small(request: web.Request, content: bytes, _: str) -> Any:
    return web.Response(body=bytes(len(content))) if "/blobs/" in request.path and len(content) < 1 << 16 and b"linux" not in content else None


class Names(aiohttp.abc.AbstractResolver):
    """A name server: *answers* by name, one after the other; the last one stays."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> Any:  # noqa: ARG002 - the base's
        found = self.answers[host]
        address = found.pop(0) if len(found) > 1 else found[0]
        return [{"hostname": host, "host": address, "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


PLACES = """
127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 168.63.129.16 224.0.0.1 255.255.255.255
::1 :: fe80::1 fd00:ec2::254 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: fec0::1 ff02::1
"""


@pytest.mark.parametrize("address", PLACES.split())
def test_closed_addresses(address):
    """Closed: this machine, its links, private networks, clouds' own; also inside an IPv6 address."""
    assert addresses.is_closed(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "140.82.121.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_open_addresses(address):
    """Positive control: the rest of the world."""
    assert not addresses.is_closed(address)


@pytest.mark.parametrize("where", ["{host}", "internal.example.com:{port}", "[::ffff:7f00:1]:{port}"])
@pytest.mark.parametrize("way", ["reference", "redirect", "realm", "redirect of a token"])
async def test_nothing_leads_inside(kept, where, way, monkeypatch):
    """A tenant's reference, a redirect, a realm: by address, by a name that stands for it, by an IPv6 form of it. No request arrives.

    The public registry is a name that the test's dialer lets through; the canary is a server beside it.
    """
    async with Registry() as registry, Registry() as inside:
        registry.put_image(TAR)
        target = "http://" + where.format(host=inside.host, port=inside.port)
        names = Names(public_example_com=["127.0.0.1"], internal_example_com=["127.0.0.1"])
        public = f"public.example.com:{registry.port}"
        _let_through(monkeypatch, registry.port)
        if way == "reference":
            wanted = f"{where.format(host=inside.host, port=inside.port)}/team/app:1"
        else:
            wanted = f"{public}/team/app:1"
        if way == "redirect":
            registry.lies.append(_redirects(target))
        if way == "realm":
            registry.realm = f"{target}/token"
        if way == "redirect of a token":
            registry.realm = f"http://{public}/token"
            monkeypatch.setattr(registry, "_give_token", lambda _: web.Response(status=307, headers={"Location": f"{target}/token"}))
        monkeypatch.setattr(hosts, "_default", lambda domain, **_: hosts.Endpoint(domain=domain, url=hosts.URL(f"http://{domain}")))
        async with opened(kept, resolver=names) as puller:
            with pytest.raises(AddressRefused):
                await puller.pull(reference.parse(wanted))
            assert inside.seen == []
            if way != "reference":
                assert registry.seen != []
            _let_through(monkeypatch, registry.port, inside.port)  # positive control: the same, with the defence off
            await puller.close()
            with contextlib.suppress(ImageError):
                await puller.pull(reference.parse(wanted))
        assert inside.seen != []


def _let_through(monkeypatch: Any, *ports: int) -> None:
    real = dialing._guarded_socket.__wrapped__ if hasattr(dialing._guarded_socket, "__wrapped__") else dialing._guarded_socket

    def guarded(info: Any) -> Any:
        if info[4][1] in ports:
            return socket.socket(family=info[0], type=info[1], proto=info[2])
        return real(info)

    guarded.__wrapped__ = real
    monkeypatch.setattr(dialing, "_guarded_socket", guarded)


def _redirects(target: str) -> Any:
    async def lie(request: web.Request, _: bytes, __: str) -> Any:
        return web.Response(status=307, headers={"Location": f"{target}{request.path}"}) if "/blobs/" in request.path else None

    return lie


async def test_a_name_that_changes_its_mind(kept, monkeypatch):
    """Rebinding: public when it is looked up first, ours when it is dialed. The dialed address is the checked one."""
    async with Registry() as inside:
        names = Names(twofaced_example_com=["1.1.1.1", "127.0.0.1"])
        wanted = reference.parse(f"twofaced.example.com:{inside.port}/team/app:1")
        monkeypatch.setattr(hosts, "_default", lambda domain, **_: hosts.Endpoint(domain=domain, url=hosts.URL(f"http://{domain}")))
        quick = dialing.Dialer(connect_seconds=0.2, resolver=names)
        line = transport.Transport(quick, timing=QUICK)
        endpoint = hosts.Endpoint(domain=wanted.domain, url=hosts.URL(f"http://{wanted.domain}"))
        try:
            await names.resolve("twofaced.example.com")  # the look that an attacker would let pass
            with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
                async with line.open("GET", endpoint.url, endpoint, headers={}):
                    pass
        finally:
            await quick.close()
        assert inside.seen == []


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_a_redirect_carries_no_credential(kept, scheme):
    """Blobs may lie elsewhere; who serves them sees neither password nor token, nor the headers of hosts.toml."""
    async with Registry(users={"alice": "secret"}) as registry, Registry() as elsewhere:
        registry.realm = f"{registry.url}/token" if scheme == "bearer" else ""
        registry.put_image(TAR)
        elsewhere.blobs = registry.blobs
        registry.lies.append(_redirects(elsewhere.url))
        credential = Credential(host=registry.host, username="alice", password="secret")
        async with _with_named(kept, registry, elsewhere) as puller:
            await puller.pull(reference.parse(registry.reference()), credentials=[credential], is_named=True)
        assert elsewhere.seen != []
        assert all(each.authorization is None and "X-Secret" not in each.headers for each in elsewhere.seen)
        assert any(each.authorization for each in registry.seen)  # positive control: it is told where it belongs
        assert any("X-Secret" in each.headers for each in registry.seen)


@contextlib.asynccontextmanager
async def _with_named(kept: store.Store, registry: Registry, *others: Registry):
    directory = os.path.join(os.path.dirname(kept.layers_dir), "..", "certs.d")
    for each in (registry, *others):
        os.makedirs(os.path.join(directory, each.host))
        text = f'server = "{each.url}"\n' + ('[header]\nX-Secret = "header"\n' if each is registry else "")
        pathlib.Path(directory, each.host, "hosts.toml").write_text(text, encoding="utf-8")
    async with opened(kept, directory=directory) as puller:
        yield puller


async def test_a_stranger_that_asks_after_a_redirect_is_told_nothing(kept):
    """A 401 from where we were redirected to is no challenge: only the registry itself may ask."""
    async with Registry(users={"alice": "secret"}) as registry, Registry(users={"x": "y"}) as thief:
        registry.put_image(TAR)
        thief.blobs = registry.blobs
        registry.lies.append(_redirects(thief.url))
        credential = Credential(host=registry.host, username="alice", password="secret")
        async with _with_named(kept, registry, thief) as puller:
            with pytest.raises(AccessDenied):
                await puller.pull(reference.parse(registry.reference()), credentials=[credential], is_named=True)
        assert thief.seen != []
        assert all(each.authorization is None for each in thief.seen)


async def test_a_realm_elsewhere_is_told_nothing(kept, monkeypatch):
    """A registry that sends for tokens to a stranger gets an error that says so; the stranger gets no request."""
    async with Registry(users={"alice": "secret"}) as registry, Registry(users={"alice": "secret"}) as thief:
        registry.put_image(TAR)
        registry.realm = f"{thief.url}/token"
        credential = Credential(host=registry.host, username="alice", password="secret")
        async with opened(kept) as puller:
            with pytest.raises(AccessDenied, match="is not told its credential"):
                await puller.pull(reference.parse(registry.reference()), credentials=[credential], is_named=True)
            assert thief.seen == []
            monkeypatch.setattr(challenge, "may_be_told", lambda *_, **__: True)  # positive control
            _let_through(monkeypatch, thief.port)
            await puller.close()
            with contextlib.suppress(ImageError):
                await puller.pull(reference.parse(registry.reference()), credentials=[credential], is_named=True)
        assert any(each.authorization for each in thief.seen)


async def test_a_token_opens_what_we_asked_for(kept, monkeypatch):
    """The scope that a registry asks for is not passed on: it could name another repository, and be given the token for it."""
    async with Registry() as registry:
        registry.put_image(TAR)
        registry.realm = f"{registry.url}/token"
        evil = f'Bearer realm="{registry.realm}",service="fake",scope="repository:victim/secret:pull,push"'
        monkeypatch.setattr(registry, "_refuse", lambda: web.Response(status=401, headers={"WWW-Authenticate": evil}))
        async with opened(kept) as puller:
            await puller.pull(reference.parse(registry.reference()), is_named=True)
        asked = [each.query for each in registry.seen if each.path == "/token"]
        assert asked == ["scope=repository:team/app:pull&service=fake"]


async def test_words_of_a_registry_are_bounded(kept):
    """What it says stands in a status and on terminals: one line, printable, short."""

    async def shout(request: web.Request, _: bytes, __: str) -> Any:
        return web.json_response({"errors": [{"code": "\x1b[31m\nX", "message": "y" * 10_000}]}, status=400)

    async with Registry() as registry, opened(kept) as puller:
        registry.put_image(TAR)
        registry.lies.append(shout)
        with pytest.raises(RegistryError) as caught:
            await puller.pull(reference.parse(registry.reference()), is_named=True)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
