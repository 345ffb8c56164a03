"""The agent's care for its images, on the real kernel: damage is found before use, room is made, what a sandbox names stays."""

from __future__ import annotations

import os
import time

import pytest

from tests.harness import images, standalone

pytestmark = pytest.mark.host("what is collected and refused is decided over our own files")


@pytest.fixture
def layout(tmp_path):
    return images.busybox_layout(str(tmp_path / "layout"))


def layers_dir(node):
    return os.path.join(node.place.state_dir, "images", "layers")


def layer_files(node):
    return {name for name in os.listdir(layers_dir(node)) if len(name) == 70}


def flip(path):
    with open(path, "r+b") as file:
        file.seek(8192)
        byte = file.read(1)[0]
        file.seek(8192)
        file.write(bytes([byte ^ 0xFF]))


def test_a_damaged_layer_is_never_started_from(tmp_path, ledger, layout):
    """After a restart of the agent the start is refused, the layer goes, other images are unharmed; imported again, the sandbox runs."""
    other = images.busybox_layout(str(tmp_path / "other"), layers=[{"etc/other": b"x"}], name="other:1")
    with standalone.running(str(tmp_path), tag="h0", flags=("--scrub-bytes-per-second=0",)) as node:
        node.client.import_image(other)
        lower = layer_files(node)
        node.run("keeps", "sleep", "60", image="other:1")
        node.wait("keeps", lambda found: standalone.ready_reason(found) == "Running")
        node.client.import_image(
            images.busybox_layout(str(tmp_path / "extra"), layers=[{"etc/large": os.urandom(1 << 20)}], name="extra:1")
        )  # its lowest layer is the other's too
        (own,) = layer_files(node) - lower
        node.kill()
        flip(os.path.join(layers_dir(node), own))
        node.start()
        node.create("starts", "true", image="extra:1", imagePullPolicy="Never")
        found = node.wait("starts", lambda found: standalone.ready_reason(found) in {"StepFailed", "ImageNotFound"})
        assert standalone.ready_reason(found) in {"StepFailed", "ImageNotFound"}
        node.wait("starts", lambda found: standalone.ready_reason(found) == "ImageNotFound")
        assert layer_files(node) == lower
        node.client.import_image(str(tmp_path / "extra"))
        assert layer_files(node) == lower | {own}
        assert node.wait_end("starts").exit_code == 0
        assert standalone.ready_reason(node.wait("keeps", lambda _: True)) == "Running"
        for name in ("starts", "keeps"):
            node.remove(name)


def test_room_is_made_but_not_of_what_is_named(tmp_path, ledger, layout):
    """Above the high mark every unused image goes; that of a live sandbox, and that of a stopped one, stay."""
    flags = ("--image-high-percent=0", "--image-low-percent=0", "--image-minimum-age-seconds=0", "--shells=0")
    with standalone.running(str(tmp_path), tag="h1") as node:
        for name in ("live:1", "stopped:1", "unused:1"):
            path = images.busybox_layout(str(tmp_path / name[:-2]), layers=[{"etc/name": name.encode()}], name=name)
            node.client.import_image(path)
        node.run("live", "sleep", "600", image="live:1")
        node.run("stopped", "true", image="stopped:1")
        node.wait("live", lambda found: standalone.ready_reason(found) == "Running")
        node.wait_end("stopped")
        assert len(layer_files(node)) == 4
        node.kill()
        node.flags += flags
        node.start()
        _until(lambda: len(layer_files(node)) == 3)
        assert {image["reference"] for image in node.client.images()} == {"docker.io/library/live:1", "docker.io/library/stopped:1"}
        for name in ("live", "stopped"):
            node.remove(name)
        node.kill()
        node.start()
        _until(lambda: layer_files(node) == set())


def _until(claim, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)
