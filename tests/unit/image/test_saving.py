"""Images out of the store and in again: digests stay, the bytes depend on the images only, and a docker-archive is a layout."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest

from skerry_node.image import importing, saving, store
from skerry_node.image.errors import BlobNotFound, DamagedContent, ImageError, InvalidLayer, InvalidLayout
from skerry_node.settings import KeepBlobs
from tests.harness import images

BELOW = images.make_tar({"etc/a": b"below"})
ABOVE = images.make_tar({"etc/b": b"above"})


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "other"))) as opened:
        yield opened


@pytest.fixture
def image(kept, tmp_path):
    return importing.import_layout(kept, images.write_layout(str(tmp_path / "layout"), [BELOW, ABOVE], name="one:1", config={"Cmd": ["x"]}))


def save(kept, *saved: store.Image, **options: bool):
    out = io.BytesIO()
    saving.write_archive(kept, saved, out, **options)
    return out.getvalue()


def docker_save(path, tars, *, tags=("one:1",), change=None):
    """A docker-archive as Docker wrote it before version 25: layers are plain tars in directories of their own; equal ones are links."""
    config = json.dumps(
        {"os": "linux", "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(t).hexdigest()}" for t in tars]}}
    ).encode()
    members = {"config.json": config}
    names = []
    for number, content in enumerate(tars):
        names.append(f"layer{number}/layer.tar")
        first = tars.index(content)
        members[names[-1]] = content if first == number else f"../layer{first}/layer.tar"
    members["manifest.json"] = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]
    if change is not None:
        change(members)
    members["manifest.json"] = json.dumps(members["manifest.json"]).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, None if isinstance(content, str) else io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("for_docker", [True, False])
def test_what_was_saved_comes_back_the_same(kept, other, image, tmp_path, for_docker):
    """Reference, digest, config, layers and blobs; and saved again it is the same tar."""
    archive = save(kept, image, for_docker=for_docker)
    (tmp_path / "saved.tar").write_bytes(archive)
    again = importing.import_layout(other, str(tmp_path / "saved.tar"))
    assert again == image
    assert sorted(other.blobs.list()) == sorted(kept.blobs.list())
    assert save(other, again, for_docker=for_docker) == archive
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert ("manifest.json" in opened.getnames()) == for_docker


def test_several_images_share_their_blobs(kept, other, image, tmp_path):
    """Each blob is there once, two tags of one image are one entry for docker, and all come back under their names."""
    second = importing.import_layout(kept, images.write_layout(str(tmp_path / "two"), [BELOW], name="example.com/two:2"))
    tagged = kept.tag("one:1", "other:latest")
    archive = save(kept, image, second, tagged)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        names = opened.getnames()
        docker = json.load(opened.extractfile("manifest.json"))
    assert len(names) == len(set(names))
    assert [entry["RepoTags"] for entry in docker] == [["one:1", "other:latest"], ["example.com/two:2"]]
    (tmp_path / "saved.tar").write_bytes(archive)
    assert importing.import_all(other, str(tmp_path / "saved.tar")) == (image, second, tagged)
    assert other.images == kept.images


def test_a_missing_blob_is_told_before_and_refused(tmp_path):
    """A store that keeps no blobs says which have to be fetched, each once."""
    with contextlib.closing(store.Store(str(tmp_path / "store"), keep_blobs=KeepBlobs.NONE)) as kept:
        image = importing.import_layout(kept, images.write_layout(str(tmp_path / "layout"), [BELOW, ABOVE, BELOW], name="one:1"))
        missing = [blob for _, blob in saving.find_missing(kept, [image, image])]
        assert missing == [image.layers[0].blob, image.layers[1].blob]
        with pytest.raises(BlobNotFound, match=missing[0].digest):
            save(kept, image)


def test_nothing_is_missing_of_an_image_with_its_blobs(kept, image):
    """The positive control of the test above."""
    assert saving.find_missing(kept, [image]) == ()


@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_a_docker_archive_is_imported(kept, tmp_path, compress):
    """Plain or packed layers, one of them as a link to an equal one; the same archive gives the same digest."""
    tars = [BELOW, ABOVE, BELOW]

    def pack(members):
        for name, content in members.items():
            if name.endswith("layer.tar") and isinstance(content, bytes) and compress:
                members[name] = compress(content)

    path = docker_save(tmp_path / "docker.tar", tars, tags=("one:1", "example.com/two:2"), change=pack)
    found = importing.import_all(kept, path)
    assert [each.reference for each in found] == ["docker.io/library/one:1", "example.com/two:2"]
    assert [layer.diff_id for layer in found[0].layers] == [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    assert found[0].layers[0].blob.media_type == "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")
    named = importing.import_layout(kept, path, reference="mine:1")
    assert (named.reference, named.digest, named.config.cmd) == ("docker.io/library/mine:1", found[0].digest, ("x",))


def changed(key, value):
    return lambda members: members["manifest.json"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(changed("Config", "../../etc/passwd"), InvalidLayout, id="config outside"),
        pytest.param(changed("Config", None), InvalidLayout, id="no config"),
        pytest.param(changed("Layers", ["absent"]), InvalidLayout, id="layer absent"),
        pytest.param(changed("Layers", "layer0/layer.tar"), InvalidLayout, id="layers are no list"),
        pytest.param(changed("Layers", ["layer0/layer.tar"]), InvalidLayout, id="fewer layers than the config"),
        pytest.param(changed("Layers", ["x"] * 501), InvalidLayout, id="too many layers"),
        pytest.param(changed("Layers", ["layer1/layer.tar", "layer0/layer.tar"]), DamagedContent, id="layers exchanged"),
        pytest.param(changed("RepoTags", ["UPPER CASE"]), ImageError, id="a tag that is none"),
        pytest.param(changed("RepoTags", []), InvalidLayout, id="no name"),
        pytest.param(lambda members: members.update({"manifest.json": {}}), InvalidLayout, id="manifest is no list"),
        pytest.param(lambda members: members.update({"manifest.json": []}), InvalidLayout, id="no image"),
        pytest.param(lambda members: members.update({"config.json": b"["}), InvalidLayout, id="config is no JSON"),
        pytest.param(lambda members: members.update({"layer0/layer.tar": "layer0/layer.tar"}), InvalidLayout, id="a link to itself"),
        pytest.param(lambda members: members.update({"layer0/layer.tar": "../../../etc/passwd"}), InvalidLayout, id="a link outside"),
        pytest.param(lambda members: members.update({"layer0/layer.tar": b"no tar"}), InvalidLayer, id="layer is no tar"),
    ],
)
def test_a_docker_archive_that_makes_no_sense_is_refused(kept, tmp_path, change, error):
    """With a sentence, and nothing left."""
    path = docker_save(tmp_path / "docker.tar", [BELOW, ABOVE], change=change)
    with pytest.raises(error):
        importing.import_all(kept, path)
    assert kept.images == ()
    assert list(kept.blobs.list()) == []
    assert [name for name in os.listdir(kept.layers_dir) if not name.startswith("base")] == []
