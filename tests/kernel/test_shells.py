"""Shells that wait with a root on: they serve the image they are dressed in, give way for any other, and leave nothing."""

from __future__ import annotations

import os

import pytest

from tests.harness import images, standalone

_COUNT = 2


@pytest.fixture
def node(ledger, tmp_path):
    """A node with two images and two shells."""
    with standalone.running(str(tmp_path), tag="sh", flags=(f"--shells={_COUNT}",)) as agent:
        agent.client.import_image(images.busybox_layout(str(tmp_path / "one"), name="one:1", layers=[{"which": b"one\n"}]))
        agent.client.import_image(images.busybox_layout(str(tmp_path / "two"), name="two:1", layers=[{"which": b"two\n"}]))
        yield agent


def test_a_dressed_shell_serves_its_image_and_gives_way_for_another(node):
    """Each sandbox sees its own image, whatever its shell had on; the writable layer carries its uid; none sees another's files."""
    _dress(node, "one:1")
    for name, image in (("a", "one:1"), ("b", "two:1"), ("c", "one:1"), ("d", "two:1")):
        script = "cat /which; ls /left 2>/dev/null; touch /left; cat /etc/hostname; ls /proc/self/ns | wc -l; test -c /dev/null && echo dev"
        found = node.run(name, "sh", "-c", script, image=image)
        node.wait_end(name)
        assert node.output(name) == f"{image.removesuffix(':1')}\n{name}\n{len(os.listdir('/proc/self/ns'))}\ndev\n"
        assert found.status.launch_type == "Warm"
        uid = found.metadata.uid
        assert os.path.exists(os.path.join(node.place.state_dir, "scratch", uid, "upper", "left"))
        _wait_for_shells(node)
    for name in "abcd":
        node.remove(name)


def test_a_read_only_root_is_never_a_dressed_one(node):
    """It cannot be written to, though a shell with that image's root on was waiting."""
    _dress(node, "one:1")
    node.run("r", "sh", "-c", "touch /x 2>/dev/null || echo refused", image="one:1", security={"readOnlyRootFilesystem": True})
    node.wait_end("r")
    assert node.output("r") == "refused\n"
    node.remove("r")


def test_an_image_is_removed_from_under_dressed_shells(node):
    """No layer of it stays mounted, its file is gone, and the next start works."""
    _dress(node, "one:1")
    layers = os.path.join(node.place.state_dir, "images", "layers")
    before = set(os.listdir(layers))
    node.client.remove_image("one:1")
    assert len(before - set(os.listdir(layers))) == 1, "the layer that the other image shares stays"
    found = node.run("n", "sh", "-c", "cat /which", image="two:1")
    node.wait_end("n")
    assert node.output("n") == "two\n"
    assert found.status.termination is None or found.status.termination.reason == "Completed"
    node.remove("n")


def test_dressed_shells_survive_the_agent_and_go_with_the_keeper(node):
    """The next agent uses what waits; after the keeper's death their writable layers are removed."""
    _dress(node, "one:1")
    node.kill()
    node.start()
    _wait_for_shells(node)
    found = node.run("s", "sh", "-c", "cat /which", image="one:1")
    assert found.status.launch_type == "Warm"
    node.wait_end("s")
    assert node.output("s") == "one\n"
    node.remove("s")
    _dress(node, "one:1")
    before = _writable_of_shells(node)
    assert before
    node.kill_keeper()
    standalone.until(lambda: not before & _writable_of_shells(node))


def _dress(node, image):
    """Start *image* often enough that every waiting shell has its root on."""
    for number in range(2 * _COUNT):
        with node.sandbox(f"dress{number}", "true", image=image):
            node.wait_end(f"dress{number}")
        _wait_for_shells(node)
    standalone.until(lambda: len(_writable_of_shells(node)) == _COUNT)


def _wait_for_shells(node):
    standalone.until(lambda: node.client.info()["details"]["shellsReady"] == _COUNT)


def _writable_of_shells(node):
    """Names and inodes of the writable layers that wait with their shells."""
    with os.scandir(os.path.join(node.place.state_dir, "scratch")) as entries:
        return {(entry.name, entry.inode()) for entry in entries if entry.name.startswith("shell-")}
