"""Which images go when the disk is nearly full."""

from __future__ import annotations

import pytest

from skerry_node.image import collecting
from skerry_node.image.config import ImageConfig
from skerry_node.image.record import Blob, Image, Layer

GIB = 1 << 30
LIMITS = collecting.Limits(high_percent=85, low_percent=80, minimum_age_seconds=100)
FULL = collecting.Disk(total_bytes=100 * GIB, free_bytes=10 * GIB)


def image(name, **layers: int):
    blob = Blob("sha256:" + "0" * 64, 1, "")
    made = tuple(Layer(diff_id=path, size_bytes=size * GIB, path=path, seal="", blob=blob) for path, size in layers.items())
    return Image(name, f"digest-{name}", "", 1, blob, ImageConfig(), made, is_local=False)


IMAGES = (image("a", own_a=6, base=20), image("b", own_b=6, base=20), image("c", own_c=6))
IDLE = {"a": 300.0, "b": 200.0, "c": 400.0}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"disk": collecting.Disk(100 * GIB, 15 * GIB)}, (), id="all is well: at the high mark nothing goes"),
        pytest.param({}, ("c", "a"), id="the longest unused first, until the low mark"),
        pytest.param({"disk": collecting.Disk(100 * GIB, 14 * GIB)}, ("c",), id="no more than is needed"),
        pytest.param({"in_use": {"c"}}, ("a", "b"), id="never one that is in use, by reference"),
        pytest.param({"in_use": {"digest-c"}}, ("a", "b"), id="never one that is in use, by digest"),
        pytest.param({"idle": {**IDLE, "c": 99.0}}, ("a", "b"), id="never a young one"),
        pytest.param({"idle": {**IDLE, "c": 100.0}}, ("a", "b"), id="b's base goes with a and b: no need for c"),
        pytest.param({"idle": {}}, (), id="of unknown age: none"),
        pytest.param({"disk": collecting.Disk(100 * GIB, 0)}, ("c", "a", "b"), id="shared layers count when their last image goes"),
        pytest.param({"disk": collecting.Disk(0, 0)}, (), id="a disk that says nothing"),
    ],
)
def test_choose(change, expected):
    """Down to the low mark, once above the high one."""
    disk, idle, in_use = change.get("disk", FULL), change.get("idle", IDLE), change.get("in_use", set())
    assert collecting.choose(IMAGES, disk, LIMITS, idle_seconds=idle, in_use=in_use) == expected
