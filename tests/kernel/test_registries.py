"""Pulls from Debian's docker-registry, filled by skopeo and buildah: every kind of image and door, and trees that umoci unpacks to the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import subprocess
import urllib.parse

import pytest

from skerry_node.image import pulling, reference, store
from skerry_node.image.registry import client, credentials, hosts, transport
from skerry_node.image.registry.errors import AccessDenied, NotInRegistry, RegistryUnavailable
from skerry_node.image.registry.manifests import DOCKER_MANIFEST, MANIFEST, this_platform
from tests.harness import images, registry

pytestmark = pytest.mark.host("Debian's registry, skopeo and buildah are not there, and what they say does not depend on the kernel")
QUICK = transport.Timing(connect_seconds=5, stall_seconds=10, attempts=2)
USERS = {"alice": "in wonderland", "bob": "b"}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("layout"))
    return images.busybox_layout(directory, name="busybox:latest", layers=[{"etc/more": b"more\n" * 1000}, {"bin/.wh.vi": b"", "etc/link": "more"}])


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory):
    with registry.running(str(tmp_path_factory.mktemp("registry"))) as found:
        yield found


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


async def pull(kept, text, *, directory=None, config=None, is_named=True):
    puller = pulling.Puller(kept, client.Client(hosts.Hosts(directory), timing=QUICK))
    found = credentials.parse(json.dumps(config).encode(), source="test") if config is not None else ()
    try:
        return await puller.pull(reference.parse(text), credentials=found, is_named=is_named)
    finally:
        await puller.close()


def push_as(target, layout, packed, flags):
    """Push the layout in another form. What skopeo repacks goes through a directory, so that it finds no other form to reuse."""
    source = f"oci:{layout}:busybox:latest"
    if flags[0].startswith("--dest"):
        place = f"dir:{packed}" if flags == ["--dest-decompress"] else f"oci:{packed}:x"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", *flags, source, place], check=True)
        source, flags = place, ["--preserve-digests"]
    name = hashlib.sha256(repr((flags, source)).encode()).hexdigest()[:8]
    return target.push(source, f"kinds/{name}:1", *flags)


def read_diff_ids(layout):
    """What the layout's config says of its layers."""
    index = json.loads(pathlib.Path(layout, "index.json").read_text(encoding="utf-8"))
    manifest = _read_blob(layout, index["manifests"][0]["digest"])
    return _read_blob(layout, manifest["config"]["digest"])["rootfs"]["diff_ids"]


def _read_blob(layout, digest):
    return json.loads(pathlib.Path(layout, "blobs/sha256", digest[7:]).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("flags", "media_type", "layer_type"),
    [
        pytest.param(["--format=oci"], MANIFEST, "application/vnd.oci.image.layer.v1.tar+gzip", id="OCI"),
        pytest.param(["--format=v2s2"], DOCKER_MANIFEST, "application/vnd.docker.image.rootfs.diff.tar.gzip", id="Docker schema 2"),
        pytest.param(["--dest-compress-format=zstd"], MANIFEST, "application/vnd.oci.image.layer.v1.tar+zstd", id="zstd"),
        pytest.param(["--dest-decompress"], MANIFEST, "application/vnd.oci.image.layer.v1.tar", id="plain"),
    ],
)
async def test_every_kind_of_image(kept, layout, open_registry, tmp_path, flags, media_type, layer_type):
    """One image in four forms: the same layers come out, by tag and by digest."""
    text = push_as(open_registry, layout, str(tmp_path / "packed"), flags)
    image = await pull(kept, text)
    diff_ids = read_diff_ids(layout)
    assert (image.media_type, [layer.diff_id for layer in image.layers]) == (media_type, diff_ids)
    assert {layer.blob.media_type for layer in image.layers} == {layer_type}
    again = await pull(kept, f"{text.removesuffix(':1')}@{image.digest}")
    assert again.layers == image.layers


def push_list(target, layout, directory):
    """A list of an image for another platform and one for ours, by buildah; the references of the list and of ours."""
    text = f"{target.host}/multi/app:1"
    storage = [f"--root={directory}/storage", f"--runroot={directory}/run", "--storage-driver=vfs"]
    ours, other = (target.push(f"oci:{layout}:busybox:latest", f"multi/app:{form}", f"--format={form}") for form in ("oci", "v2s2"))
    for command in (
        ["manifest", "create", "list"],
        ["manifest", "add", "--tls-verify=false", "--arch=s390x", "--os=linux", "list", f"docker://{other}"],
        ["manifest", "add", "--tls-verify=false", f"--arch={this_platform().architecture}", "--os=linux", "list", f"docker://{ours}"],
        ["manifest", "push", "--all", "--tls-verify=false", "--format=oci", "list", f"docker://{text}"],
    ):
        done = subprocess.run(["buildah", *storage, *command], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return text, ours


async def test_an_index_made_by_buildah(kept, layout, open_registry, tmp_path):
    """A manifest list of two platforms: ours is taken."""
    text, ours = push_list(open_registry, layout, str(tmp_path))
    image = await pull(kept, text)
    assert (image.media_type, image.digest) == (MANIFEST, (await pull(kept, ours)).digest)


@pytest.mark.parametrize("with_tokens", [False, True], ids=["basic", "token"])
async def test_a_private_registry(kept, layout, tmp_path, with_tokens):
    """Passwords and tokens open; without, or with another's, the registry's words come back, and nothing is visible."""
    with registry.running(str(tmp_path / "registry"), users=USERS, with_tokens=with_tokens) as private:
        text = private.push(f"oci:{layout}:busybox:latest", "team/app:1")
        directory = None
        if with_tokens:
            realm = private.token_server.url.removeprefix("http://").removesuffix("/token")
            directory = registry.write_hosts(str(tmp_path / "certs.d"), private.host, f'server = "{private.url}"\n')
            registry.write_hosts(directory, realm, f'server = "http://{realm}"\n')
        for config in (None, private.docker_config("alice", "wrong"), private.docker_config("eve", "b")):
            with pytest.raises(AccessDenied, match="UNAUTHORIZED"):
                await pull(kept, text, directory=directory, config=config)
            assert kept.images == ()
        image = await pull(kept, text, directory=directory, config=private.docker_config("alice", USERS["alice"]))
        assert len(image.layers) == 3
        if with_tokens:
            asked = {urllib.parse.parse_qs(query)["scope"][0] for query, user in private.token_server.seen if user == "eve" or user is None}
            assert asked == {"repository:team/app:pull"}
        with pytest.raises(NotInRegistry, match="MANIFEST_UNKNOWN"):
            await pull(kept, text.replace("app:1", "app:none"), directory=directory, config=private.docker_config("alice", USERS["alice"]))


async def test_tls_with_a_private_authority(kept, layout, tmp_path):
    """Known by the authority in the hosts file, or not at all; not asked otherwise."""
    with registry.running(str(tmp_path / "registry"), with_tls=True) as private:
        text = private.push(f"oci:{layout}:busybox:latest", "team/app:1")
        nothing = registry.write_hosts(str(tmp_path / "none"), private.host, f'server = "{private.url}"\n')
        with pytest.raises(RegistryUnavailable, match="is not trusted"):
            await pull(kept, text, directory=nothing)
        known = registry.write_hosts(str(tmp_path / "ca"), private.host, f'server = "{private.url}"\nca = "{private.tls[0]}"\n')
        await pull(kept, text, directory=known, is_named=False)
        kept.remove(text)
        blind = registry.write_hosts(str(tmp_path / "blind"), private.host, f'server = "{private.url}"\nskip_verify = true\n')
        assert len((await pull(kept, text, directory=blind)).layers) == 3


async def test_a_mirror_fails_over(kept, layout, open_registry, tmp_path):
    """While it lives the mirror serves; dead, the registry does."""
    with registry.running(str(tmp_path / "mirror")) as mirror:
        mirror.push(f"oci:{layout}:busybox:latest", "team/app:1")
        text = f'server = "{open_registry.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n'
        directory = registry.write_hosts(str(tmp_path / "certs.d"), "images.example.com", text)
        image = await pull(kept, "images.example.com/team/app:1", directory=directory, is_named=False)  # only the mirror has it
        kept.remove(image.reference)
    with pytest.raises(NotInRegistry, match=r"before that: .*does not answer"):
        await pull(kept, "images.example.com/team/app:1", directory=directory, is_named=False)
    open_registry.push(f"oci:{layout}:busybox:latest", "team/app:1")
    assert (await pull(kept, "images.example.com/team/app:1", directory=directory, is_named=False)).digest == image.digest
