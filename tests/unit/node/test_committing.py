"""Commit without a sandbox: an image or nothing, and the same layer from the same tree."""

from __future__ import annotations

import contextlib
import os

import pytest

from skerry_node.carrying import committing
from skerry_node.image import describing, importing, store
from skerry_node.image.errors import InvalidReference, InvalidTree
from skerry_node.serving.images import CommitRequest
from tests.harness import images

SECOND = 1_000_000_000


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@pytest.fixture
def image(kept, tmp_path):
    return importing.import_layout(kept, images.write_layout(str(tmp_path / "layout"), [images.make_tar({"a": b"a"})], name="base:1"))


@pytest.fixture
def upper(tmp_path):
    (tmp_path / "upper").mkdir(mode=0o755)
    (tmp_path / "upper/new").write_bytes(b"new")
    fd = os.open(tmp_path / "upper", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def commit(kept, image, upper, directory, reference="new:1", *, confirm=lambda: None, now=1, **words: str):
    return committing.commit(
        kept, image, upper, CommitRequest(reference=reference, **words), id_base=os.getuid(), directory=str(directory), now_ns=now * SECOND,
        confirm=confirm,
    )  # fmt: skip


def test_the_same_tree_gives_the_same_layer(kept, image, upper, tmp_path):
    """Only time and words tell the images apart; both share the layer."""
    first, second = commit(kept, image, upper, tmp_path), commit(kept, image, upper, tmp_path, "new:2", now=2)
    assert first.layer == second.layer
    assert first.image.layers[:-1] == image.layers
    assert first.image.digest != second.image.digest
    assert commit(kept, image, upper, tmp_path, "new:3").image.digest == first.image.digest


def test_what_was_read_in_part_becomes_no_image(kept, image, upper, tmp_path):
    """A sandbox that is removed meanwhile: neither an image nor a layer nor a blob stays."""
    blobs, layers = sorted(kept.blobs.list()), sorted(os.listdir(kept.layers_dir))

    def gone():
        raise InvalidTree("removed meanwhile")

    with pytest.raises(InvalidTree, match="removed meanwhile"):
        commit(kept, image, upper, tmp_path, confirm=gone)
    assert (kept.images, sorted(kept.blobs.list()), sorted(os.listdir(kept.layers_dir))) == ((image,), blobs, layers)


def test_a_name_that_is_none_costs_nothing(kept, image, upper, tmp_path):
    """It is refused before anything is read."""
    with pytest.raises(InvalidReference):
        commit(kept, image, upper, tmp_path, "UPPER", confirm=lambda: pytest.fail("it was read"))


def test_the_history_has_a_step_for_each_layer(kept, image, upper, tmp_path):
    """Also when the base tells none of its own; the words of whoever committed stand in the last."""
    done = commit(kept, image, upper, tmp_path, message="words", author="alice", changes=("ENV A=b",))
    steps = describing.history(kept, done.image)
    assert [step["diffId"] for step in steps] == [layer.diff_id for layer in done.image.layers]
    assert (steps[-1]["comment"], steps[-1]["instruction"]) == ("words", 'skerry commit --change "ENV A=b"')
    assert describing.inspect(kept, done.image, others=())["author"] == "alice"
