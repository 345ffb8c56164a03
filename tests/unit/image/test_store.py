"""The store and importing: whole images or nothing, whatever was damaged, cut or killed."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import stat
import subprocess
import threading

import pytest

from skerry_node.image import base, blobs, importing, store
from skerry_node.image.errors import BlobNotFound, DamagedContent, ImageError, ImageNotFound, InvalidLayout, InvalidReference
from skerry_node.settings import KeepBlobs
from tests.harness import images

BELOW = images.make_tar({"etc/a": b"below"})
ABOVE = images.make_tar({"etc/b": b"above"})


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@pytest.fixture
def layout(tmp_path):
    return images.write_layout(str(tmp_path / "layout"), [BELOW, ABOVE], name="one:1", config={"Cmd": ["x"]})


def layer_files(kept):
    return sorted(name for name in os.listdir(kept.layers_dir) if name != base.NAME)


def names_of(image):
    return sorted(layer.path for layer in image.layers)


def blob_path(layout, position):
    """Blob of the manifest (-1), the config (0) or a layer (1, 2)."""
    with open(os.path.join(layout, "index.json"), encoding="utf-8") as file:
        described = json.load(file)["manifests"][0]
    path = os.path.join(layout, "blobs", "sha256", described["digest"][7:])
    if position < 0:
        return path
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    digest = [manifest["config"], *manifest["layers"]][position]["digest"]
    return os.path.join(layout, "blobs", "sha256", digest[7:])


def test_an_image_is_found_under_its_names(kept, layout):
    """By short name, whole name and digest; layers lowest first."""
    image = importing.import_layout(kept, layout)
    assert image.reference == "docker.io/library/one:1"
    assert [layer.diff_id for layer in image.layers] == [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in (BELOW, ABOVE)]
    for name in ("one:1", "docker.io/library/one:1", f"one@{image.digest}"):
        assert kept.find(name) == image
    for name in ("one", "two:1", "../one", ""):
        assert kept.find(name) is None
    assert kept.list() == [image]


def test_an_image_outlives_the_process(kept, layout, tmp_path):
    """A new store over the same directory has the same images."""
    image = importing.import_layout(kept, layout)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert again.list() == [image]
        assert layer_files(again) == names_of(image)


def test_the_store_is_for_root_only(kept, layout, tmp_path):
    """Directories are 0700, layers are 0400."""
    image = importing.import_layout(kept, layout)
    for path in (tmp_path / "store", tmp_path / "store" / "layers", tmp_path / "store" / "images"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(os.stat(image.layers[0].path, dir_fd=kept.layers_fd).st_mode) == 0o400


def test_a_layer_goes_with_its_last_image(kept, layout, tmp_path):
    """Shared layers stay while one image uses them."""
    first = importing.import_layout(kept, layout)
    second = importing.import_layout(kept, images.write_layout(str(tmp_path / "two"), [BELOW]), reference="two")
    assert kept.remove("one:1") == (first.layers[1].path,)
    assert layer_files(kept) == names_of(second)
    kept.remove("two")
    assert layer_files(kept) == []
    with pytest.raises(ImageNotFound, match="two"):
        kept.remove("two")


def test_a_moved_tag_drops_what_it_left(kept, layout, tmp_path):
    """The same name on new content leaves no old layer behind."""
    importing.import_layout(kept, layout)
    new = importing.import_layout(kept, images.write_layout(str(tmp_path / "new"), [BELOW]), reference="one:1")
    assert kept.list() == [new]
    assert layer_files(kept) == names_of(new)


@pytest.mark.parametrize("position", [-1, 0, 1, 2])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_damage_is_named_and_nothing_stays(kept, layout, position, damage):
    """Any blob that is not what its digest says refuses the image, whichever blob and however damaged."""
    path = blob_path(layout, position)
    with open(path, "rb") as file:
        content = bytearray(file.read())
    content[len(content) // 2] ^= 1
    whole = bytes(content)
    content[len(content) // 2] ^= 1
    damaged = {"flip": whole, "cut": bytes(content[:-3]), "empty": b"", "longer": bytes(content) + b"x"}[damage]
    with open(path, "wb") as file:
        file.write(damaged)
    with pytest.raises(DamagedContent, match=f"sha256:{os.path.basename(path)}"):
        importing.import_layout(kept, layout)
    assert layer_files(kept) == []
    assert kept.list() == []


def test_a_failed_import_takes_nothing_from_others(kept, layout, tmp_path):
    """A layer that another image uses stays when an import that shares it fails."""
    other = importing.import_layout(kept, images.write_layout(str(tmp_path / "two"), [BELOW]), reference="two")
    os.truncate(blob_path(layout, 2), 5)
    with pytest.raises(DamagedContent):
        importing.import_layout(kept, layout)
    assert layer_files(kept) == names_of(other)


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"null", b"1", b"\xff", b'{"version": 1}', b'{"version": 2}', b"[" * 100_000,
        b'{"version": 2, "reference": 1, "digest": "", "config": {}, "layers": []}',
        b'{"version": 2, "reference": "a", "digest": "", "config": [], "layers": []}',
        b'{"version": 2, "reference": "a", "digest": "", "config": {}, "layers": [{"diff_id": "../x", "size_bytes": 1, "path": "../x"}]}',
    ],
)  # fmt: skip
def test_a_damaged_record_hides_one_image_only(kept, layout, tmp_path, record):
    """The store opens whatever is in a record; the others are unharmed, and importing repairs it."""
    first = importing.import_layout(kept, layout)
    importing.import_layout(kept, images.write_layout(str(tmp_path / "two"), [BELOW]), reference="two")
    name = hashlib.sha256(b"docker.io/library/two:latest").hexdigest() + ".json"
    (tmp_path / "store" / "images" / name).write_bytes(record)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert again.list() == [first]
        importing.import_layout(again, str(tmp_path / "two"), reference="two")
        assert len(again.list()) == 2


def test_the_store_has_what_the_registry_would(kept, layout):
    """Manifest and config byte for byte, and the layers' blobs, all by digest."""
    image = importing.import_layout(kept, layout)
    for position, blob in enumerate(image.blobs):
        with open(blob_path(layout, position - 1), "rb") as file:
            content = file.read()
        assert blob.size_bytes == len(content)
        assert kept.blobs.read(blob.digest) == content


@pytest.mark.parametrize(
    ("keep", "is_local", "stays"),
    [
        ("all", True, True), ("all", False, True), ("local", True, True), ("local", False, False), ("none", True, False), ("none", False, False),
    ],
)  # fmt: skip
def test_layer_blobs_stay_as_the_setting_says(layout, tmp_path, keep, is_local, stays):
    """Manifest and config stay in any case; a setting that changed takes hold when the store is opened."""
    with contextlib.closing(store.Store(str(tmp_path / "store"), keep_blobs=KeepBlobs.ALL)) as kept:
        image = dataclasses.replace(importing.import_layout(kept, layout), is_local=is_local)
        kept.add(image)
    with contextlib.closing(store.Store(str(tmp_path / "store"), keep_blobs=KeepBlobs(keep))) as again:
        assert again.images == (image,)
        assert [again.blobs.has(blob.digest) for blob in image.blobs] == [True, True, stays, stays]


def test_a_tag_shares_everything(kept, layout, tmp_path):
    """Another reference costs a record; what it shares goes with the last of them."""
    image = importing.import_layout(kept, layout)
    used = kept.used_bytes
    tagged = kept.tag("one:1", "registry.example/two:2")
    assert tagged == dataclasses.replace(image, reference="registry.example/two:2")
    assert kept.references(image.digest) == ("docker.io/library/one:1", "registry.example/two:2")
    assert kept.used_bytes == used
    assert kept.remove("one:1") == ()
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert again.images == (tagged,)
        assert set(again.remove("registry.example/two:2")) == set(names_of(image))
        assert list(again.blobs.list()) == []
    with pytest.raises(ImageNotFound):
        kept.tag("three", "four")
    with pytest.raises(InvalidReference):
        kept.tag("registry.example/two:2", "../x")


def test_a_damaged_layer_breaks_its_images_until_it_is_back(kept, layout, tmp_path):
    """The others stay; bringing the image in again makes that layer only, and mends every image that lacked it."""
    image = importing.import_layout(kept, layout)
    kept.tag("one:1", "two")
    other = importing.import_layout(kept, images.write_layout(str(tmp_path / "three"), [BELOW]), reference="three")
    inode = os.stat(image.layers[0].path, dir_fd=kept.layers_fd).st_ino
    assert {each.reference[-5:] for each in kept.drop_layer(image.layers[1].diff_id)} == {"one:1", "atest"}
    assert kept.images == (other,)
    for opened in (kept, store.Store(str(tmp_path / "store"))):
        assert len(opened.broken) == 2
        assert opened.find("one:1") is None
    opened.close()
    assert importing.import_layout(kept, layout) == image
    assert (len(kept.images), kept.broken) == (3, ())
    assert os.stat(image.layers[0].path, dir_fd=kept.layers_fd).st_ino == inode


def test_a_broken_image_can_be_removed(kept, layout):
    """It leaves nothing."""
    image = importing.import_layout(kept, layout)
    kept.drop_layer(image.layers[1].diff_id)
    kept.remove("one:1")
    assert layer_files(kept) == []
    assert list(kept.blobs.list()) == []


def test_a_lost_manifest_breaks_its_image(kept, layout, tmp_path):
    """What cannot be pushed or saved is not called whole."""
    image = importing.import_layout(kept, layout)
    kept.blobs.remove(image.digest)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert again.images == ()
        assert importing.import_layout(again, layout) == image


def add_blob(kept, digest, pieces):
    with kept.blobs.add(digest, 7) as writer:
        for piece in pieces:
            writer.write(piece)
        writer.commit()


def test_blobs_are_proved_before_they_are_there(kept):
    """Too short, too long, other bytes: refused, and nothing stays; an abandoned one neither."""
    digest = blobs.digest_of(b"content")
    for pieces in ([b"cont"], [b"content", b"x"], [b"CONTENT"], []):
        with pytest.raises(DamagedContent, match=digest):
            add_blob(kept, digest, pieces)
        assert not kept.blobs.has(digest)
    with kept.blobs.add(digest, 7) as writer:
        writer.write(b"content")
    assert not kept.blobs.has(digest)
    with kept.blobs.add(digest, 7) as writer:
        writer.write(b"con")
        writer.write(memoryview(b"tent"))
        writer.commit()
    assert kept.blobs.read(digest) == b"content"
    for name in ("sha256:../../etc/passwd", "", "sha256:" + "0" * 64):
        with pytest.raises(BlobNotFound):
            kept.blobs.open(name)


def test_blobs_without_an_image_go_at_the_next_start(kept, layout, tmp_path):
    """And so does what a crash left of one."""
    image = importing.import_layout(kept, layout)
    kept.blobs.put(b"nobody's")
    (tmp_path / "store" / "blobs" / "sha256" / f".{'a' * 64}.1.ff").write_bytes(b"x")
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert sorted(again.blobs.list()) == sorted(blob.digest for blob in image.blobs)
        assert len(os.listdir(tmp_path / "store" / "blobs" / "sha256")) == 4


def test_proofs_go_with_their_image(kept, layout, tmp_path):
    """Hashes are keyed by a secret of the store, are added up, outlive the process, and are forgotten with the image."""
    image = importing.import_layout(kept, layout)
    first, second = kept.proofs.hash(b"secret"), kept.proofs.hash(b"other")
    kept.proofs.add(image.digest, [first])
    kept.proofs.add(image.digest, [second, first])
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert again.proofs.read(image.digest) == (first, second)
        assert again.proofs.hash(b"secret") == first != hashlib.sha256(b"secret").hexdigest()
        again.remove("one:1")
        assert again.proofs.read(image.digest) == ()
    with contextlib.closing(store.Store(str(tmp_path / "elsewhere"))) as elsewhere:
        assert elsewhere.proofs.hash(b"secret") != first


def test_a_cut_layer_hides_its_images(kept, layout, tmp_path):
    """A sealed layer of the wrong size is not used; importing brings it back."""
    image = importing.import_layout(kept, layout)
    os.truncate(os.path.join(kept.layers_dir, image.layers[0].path), 4096)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert again.list() == []
        assert importing.import_layout(again, layout) == image


def test_what_a_crash_left_is_swept(kept, layout, tmp_path):
    """Temporary files, and layers without an image, go when the store is opened."""
    image = importing.import_layout(kept, layout)
    for name in (f".{'a' * 64}.erofs.1.ff", f"{'b' * 64}.erofs"):
        (tmp_path / "store" / "layers" / name).write_bytes(b"x")
    (tmp_path / "store" / "images" / "x.json.tmp").write_bytes(b"x")
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        assert layer_files(again) == names_of(image)
        assert len(os.listdir(tmp_path / "store" / "images")) == 1


def test_threads_import_the_same_image_at_once(kept, layout, tmp_path):
    """The agent imports in threads: all end with the one image, also while another is removed."""
    two = images.write_layout(str(tmp_path / "two"), [BELOW, ABOVE], name="two")
    errors = []

    def work(source, name):
        try:
            for _ in range(5):
                importing.import_layout(kept, source, reference=name)
                if name == "two":
                    kept.remove(name)
        except ImageError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=each) for each in ((layout, "one:1"), (layout, "one:1"), (two, "two"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    (image,) = kept.list()
    assert layer_files(kept) == names_of(image)


def test_a_tar_of_a_layout_is_a_layout(kept, layout, tmp_path):
    """What skopeo calls oci-archive."""
    archive = tmp_path / "layout.tar"
    subprocess.run(["tar", "-C", layout, "-cf", str(archive), "."], check=True)
    assert importing.import_layout(kept, str(archive)).reference == "docker.io/library/one:1"


def change_index(layout, change):
    path = os.path.join(layout, "index.json")
    with open(path, encoding="utf-8") as file:
        index = json.load(file)
    change(index)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(index, file)


def put(layout, body):
    content = json.dumps(body).encode()
    digest = hashlib.sha256(content).hexdigest()
    with open(os.path.join(layout, "blobs", "sha256", digest), "wb") as file:
        file.write(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def test_a_nested_index_is_chosen_from_by_platform(kept, layout):
    """The manifest of this machine's architecture is taken; attestations and others are left."""

    def change(index):
        manifest = index["manifests"][0]
        other = {**manifest, "digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}}
        unknown = {**other, "platform": {"os": "unknown", "architecture": "unknown"}}
        architecture = importing._platform().split("/")[1]
        mine = {**manifest, "platform": {"os": "linux", "architecture": architecture}}
        nested = {"schemaVersion": 2, "manifests": [other, unknown, mine]}
        kind = "application/vnd.oci.image.index.v1+json"
        annotations = manifest["annotations"]
        index["manifests"] = [{"mediaType": kind, **put(layout, nested), "annotations": annotations}]

    change_index(layout, change)
    assert importing.import_layout(kept, layout).reference == "docker.io/library/one:1"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda index: index.update(manifests=[]), id="no image"),
        pytest.param(lambda index: index.update(manifests=1), id="no list"),
        pytest.param(lambda index: index.pop("manifests"), id="nothing"),
        pytest.param(lambda index: index["manifests"][0].update(digest="sha256:../../../etc/passwd"), id="digest is a path"),
        pytest.param(lambda index: index["manifests"][0].update(digest="md5:abc"), id="digest of another kind"),
        pytest.param(lambda index: index["manifests"][0].update(digest="sha256:" + "0" * 64), id="blob absent"),
        pytest.param(lambda index: index["manifests"][0].update(mediaType="text/plain"), id="media type confusion"),
        pytest.param(lambda index: index["manifests"][0].update(platform={"os": "plan9", "architecture": "vax"}), id="platform"),
        pytest.param(lambda index: index["manifests"].append({**index["manifests"][0], "digest": "sha256:" + "1" * 64}), id="two images and no name"),
        pytest.param(lambda index: index["manifests"][0].pop("annotations"), id="no name at all"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(kept, layout, change):
    """With a sentence, and nothing left."""
    change_index(layout, change)
    with pytest.raises(InvalidLayout):
        importing.import_layout(kept, layout)
    assert layer_files(kept) == []


@pytest.mark.parametrize("content", [b"", b"x", b"[" * 200_000, b"\xff\xff", gzip.compress(b"{}", mtime=0)])
def test_an_index_that_is_no_json_is_refused(kept, layout, content):
    """Whatever the bytes."""
    with open(os.path.join(layout, "index.json"), "wb") as file:
        file.write(content)
    with pytest.raises(InvalidLayout, match=r"index\.json"):
        importing.import_layout(kept, layout)


def test_a_source_that_is_none_is_refused(kept, tmp_path):
    """Absent, no layout, a pipe in the place of a file: each says what to give."""
    (tmp_path / "file").write_bytes(b"text" * 200)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "index.json")
    for name in ("absent", "file", "empty", "pipe"):
        with pytest.raises(InvalidLayout):
            importing.import_layout(kept, str(tmp_path / name))
