"""SIGKILL before every system call that changes the store, while an image is imported and pulled: each time the whole image, or none of it.

`make test` takes every fourth point, `make test-all` takes all (tests/harness/points.py); how many there are is printed, and stands in
docs/images.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys

import pytest

from skerry_node.image import base, importing, sealing, store
from tests.fakes.registry import Registry
from tests.harness import images, killpoints
from tests.harness import points as parts

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the converter's walls are those of an agent that is root"),
]
BELOW, ABOVE = images.make_tar({"etc/a": b"below"}), images.make_tar({"etc/b": b"above", "etc/large": bytes(3 << 20)})
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
PARTS = 4
IMPORT = """
import sys
from skerry_node.image import importing, store
kept = store.Store(sys.argv[1])
importing.import_layout(kept, sys.argv[2], reference="one:1")
kept.tag("one:1", "two:2")
kept.remove("one:1")
"""
PULL = """
import asyncio, sys
from skerry_node.image import pulling, reference, store
from skerry_node.image.registry import client, hosts
async def pull():
    kept = store.Store(sys.argv[1], keep_blobs="all")
    puller = pulling.Puller(kept, client.Client(hosts.Hosts(None)))
    await puller.pull(reference.parse(sys.argv[2]), is_named=True)
    await puller.close()
    kept.close()
asyncio.run(pull())
"""


def assert_consistent(kept):
    """Every record's layers and blobs are there, whole and sealed; nothing else is."""
    named = {layer.path for image in kept.images for layer in image.layers}
    assert {name for name in os.listdir(kept.layers_dir) if name != base.NAME} == named
    for image in kept.images:
        for layer in image.layers:
            fd = os.open(layer.path, os.O_RDONLY, dir_fd=kept.layers_fd)
            assert sealing.seal(fd) == sealing.Sealed(layer.size_bytes, layer.seal)
            os.close(fd)
        for blob in image.blobs:
            if kept.blobs.has(blob.digest):
                assert len(kept.blobs.read(blob.digest)) == blob.size_bytes
    digests = {blob.digest for image in kept.images for blob in image.blobs}
    assert set(kept.blobs.list()) <= digests
    assert kept.broken == ()


def leftovers(root):
    """Files of no known kind."""
    found = [os.path.join(directory, name) for directory, _, names in os.walk(root) for name in names]
    return [path for path in found if os.path.basename(path).startswith(".") or path.endswith(".tmp")]


def test_an_import_is_whole_or_not_there(tmp_path, record_property):
    """With a tag and a removal behind it. After each kill the store opens, is consistent, and takes the import."""
    layout = images.write_layout(str(tmp_path / "layout"), [BELOW, ABOVE], name="one:1")

    def command(root):
        return [sys.executable, "-c", IMPORT, str(root), layout]

    first = tmp_path / "first"
    points = killpoints.find(command(first), below=str(first), environment=ENVIRONMENT, log=str(tmp_path / "log"))
    taken, killed = parts.take(points, PARTS), 0
    for number, point in enumerate(taken):
        root = tmp_path / f"store-{number}"
        killed += killpoints.run_killed(command(root), point, environment=ENVIRONMENT)
        with contextlib.closing(store.Store(str(root))) as again:
            assert_consistent(again)
            assert leftovers(root) == []
            image = importing.import_layout(again, layout, reference="three:3")
            assert again.find("three:3") == image
            assert_consistent(again)
        shutil.rmtree(root)
    record_property(parts.KEY, f"import, tag, remove: {killed} of {len(points)}")
    assert killed >= 0.9 * len(taken)
    assert len(points) > 30


async def test_a_pull_is_whole_or_not_there(tmp_path, record_property):
    """After each kill the store opens, is consistent, and the next pull brings the image."""
    async with Registry() as registry:
        registry.put_image(BELOW, ABOVE)

        def command(root):
            return [sys.executable, "-c", PULL, str(root), registry.reference()]

        first = tmp_path / "first"
        points = await asyncio.to_thread(killpoints.find, command(first), below=str(first), environment=ENVIRONMENT, log=str(tmp_path / "log"))
        taken, killed = parts.take(points, PARTS), 0
        for number, point in enumerate(taken):
            root = tmp_path / f"store-{number}"
            killed += await asyncio.to_thread(killpoints.run_killed, command(root), point, environment=ENVIRONMENT)
            with contextlib.closing(store.Store(str(root))) as again:
                assert_consistent(again)
                assert leftovers(root) == []
            assert not await asyncio.to_thread(killpoints.run_killed, command(root), ("rmdir", 9999), environment=ENVIRONMENT)
            with contextlib.closing(store.Store(str(root))) as again:
                assert_consistent(again)
                assert again.find(registry.reference()) is not None
            shutil.rmtree(root)
    record_property(parts.KEY, f"pull, by system call: {killed} of {len(points)}")
    assert killed >= 0.9 * len(taken)
    assert len(points) > 30
