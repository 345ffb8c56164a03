"""What a node says of its images."""

from __future__ import annotations

from skerry_node import inventory
from skerry_node.settings import Settings
from tests.unit.image.test_collecting import GIB, image


def test_the_largest_images_are_listed():
    """Fifty at most, the largest first, and by reference where they are as large; a shared layer counts in each."""
    images = [image(f"image-{number:03}", **{f"own{number}": number % 40, "base": 2}) for number in range(80)]
    described = inventory.describe(Settings(node_name="n"), [], images, cgroup_version=2, now="2026-01-01T00:00:00Z", endpoint=None)
    listed = described.status.images
    assert len(listed) == 50
    assert [each.size_bytes for each in listed[:3]] == [41 * GIB, 41 * GIB, 40 * GIB]
    assert [each.reference for each in listed[:3]] == ["image-039", "image-079", "image-038"]
    assert listed[0].digest == "digest-image-039"
