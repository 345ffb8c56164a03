"""The store and importing: whole images or nothing, whatever was damaged, cut or killed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from skerry_node.image import base, importing, store
from skerry_node.image.errors import DamagedContent, ImageError, ImageNotFound, InvalidLayout
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
        b"", b"{", b"[]", b"null", b"1", b"\xff", b'{"version": 2}', b'{"version": 1}', b"[" * 100_000,
        b'{"version": 1, "reference": 1, "digest": "", "config": {}, "layers": []}',
        b'{"version": 1, "reference": "a", "digest": "", "config": [], "layers": []}',
        b'{"version": 1, "reference": "a", "digest": "", "config": {}, "layers": [{"diff_id": "../x", "size_bytes": 1, "path": "../x"}]}',
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


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[4:]
calls = 0
def counted(name):
    real = getattr(os, name)
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(os, name, call)
for name in ("mkdir", "open", "pwrite", "ftruncate", "fsync", "rename", "unlink"):
    counted(name)
from skerry_node.image import importing, store
importing.import_layout(store.Store(sys.argv[1]), sys.argv[2])
"""


def test_kill_at_any_point_leaves_all_or_nothing(layout, tmp_path):
    """SIGKILL before each of the image code's own file calls: the next store has the whole image or none, and importing then works."""
    points, was_killed = 0, True
    while was_killed:
        points += 1
        root = tmp_path / f"store-{points}"
        done = subprocess.run([sys.executable, "-c", KILLED, str(root), layout, str(points), *sys.path], check=False)
        was_killed = done.returncode == -signal.SIGKILL
        assert was_killed or done.returncode == 0
        with contextlib.closing(store.Store(str(root))) as again:
            assert layer_files(again) == [path for image in again.list() for path in names_of(image)]
            image = importing.import_layout(again, layout)
            assert again.list() == [image]
    assert points > 15


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
        pytest.param(lambda index: index["manifests"].append(index["manifests"][0]), id="two images and no name"),
        pytest.param(lambda index: index["manifests"][0].pop("annotations"), id="no name at all"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(kept, layout, change):
    """With a sentence, and nothing left."""
    change_index(layout, change)
    with pytest.raises(InvalidLayout):
        importing.import_layout(kept, layout)
    assert layer_files(kept) == []


@pytest.mark.parametrize("content", [b"", b"x", b"[" * 200_000, b"\xff\xff", gzip.compress(b"{}")])
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
