"""Images carried in and out of a running agent, through its door, and read by other people's tools. Root; skopeo, umoci."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from skerry.errors import Refused
from tests.harness import images, standalone
from tests.harness.agents import python_environment


@pytest.fixture
def node(ledger, tmp_path):
    """A node with busybox and an image over it."""
    layout = images.busybox_layout(
        str(tmp_path / "layout"), name="configured:1", layers=[{"etc/added": b"added\n", "etc/.wh.lower-file": b""}], config={"User": "alice"}
    )
    with standalone.running(str(tmp_path), tag="k7") as agent:
        agent.client.import_image(images.busybox_layout(str(tmp_path / "plain")))
        agent.client.import_image(layout)
        yield agent


def skerry(node, *arguments: str, check=True):
    """The command line, as people run it."""
    command = [sys.executable, "-m", "skerry", *arguments]
    return subprocess.run(command, env={**python_environment(), "SKERRY_SOCKET": node.socket_path}, check=check, capture_output=True)


def run(*command: object):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def digest_of(path):
    with open(path, "rb") as file:
        return f"sha256:{hashlib.sha256(file.read()).hexdigest()}"


def test_a_saved_image_is_read_by_others(node, tmp_path):
    """Skopeo takes it for a docker-archive and for an OCI archive with the same layers; umoci unpacks it; imported again it is the same."""
    archive, layout = tmp_path / "saved.tar", tmp_path / "saved"
    image = node.client.inspect_image("configured:1")
    skerry(node, "image", "save", "-o", str(archive), "configured:1")
    skerry(node, "image", "save", "--format", "oci-dir", "-o", str(layout), "configured:1")
    with (tmp_path / "stdout.tar").open("wb") as out:
        out.write(skerry(node, "image", "save", "configured:1").stdout)
    assert digest_of(tmp_path / "stdout.tar") == digest_of(archive)
    seen = json.loads(run("skopeo", "inspect", f"oci-archive:{archive}"))
    assert seen["Layers"] == [layer["digest"] for layer in image["layers"]]
    assert run("skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{layout}").strip() == image["digest"]
    run("skopeo", "copy", f"docker-archive:{archive}", f"oci:{tmp_path / 'from-docker'}:latest")
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{tmp_path / 'from-docker'}:latest"))
    assert config["rootfs"]["diff_ids"] == [layer["diffId"] for layer in image["layers"]]
    assert config["config"]["User"] == "alice"
    run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/added").read_text() == "added\n"
    assert not os.path.lexists(tmp_path / "bundle/rootfs/etc/lower-file")
    for source in (archive, layout):
        skerry(node, "image", "rm", "configured:1")
        again = skerry(node, "image", "import", str(source)).stdout.decode().split()
        assert again == ["docker.io/library/configured:1", image["digest"]]
        assert node.client.inspect_image("configured:1") == image


def test_what_others_saved_is_imported(node, tmp_path):
    """A docker-archive by skopeo, with the same configuration and layers; it runs."""
    skerry(node, "image", "save", "--format", "oci-dir", "-o", str(tmp_path / "ours"), "configured:1")
    run("skopeo", "copy", f"oci:{tmp_path / 'ours'}:1", f"docker-archive:{tmp_path / 'docker.tar'}:example.com/theirs:2")
    assert skerry(node, "image", "import", str(tmp_path / "docker.tar")).stdout.split()[0] == b"example.com/theirs:2"
    ours, theirs = (node.client.inspect_image(name) for name in ("configured:1", "example.com/theirs:2"))
    assert [layer["diffId"] for layer in theirs["layers"]] == [layer["diffId"] for layer in ours["layers"]]
    assert theirs["config"]["User"] == "alice"
    with node.sandbox("theirs", "cat", "/etc/added", image="example.com/theirs:2"):
        node.wait_end("theirs")
        assert node.output("theirs") == "added\n"


def test_names_come_and_go(node):
    """A tag shares everything; the image stays until its last name goes."""
    assert skerry(node, "image", "tag", "configured:1", "example.com/a/b:2").stdout == b"example.com/a/b:2\n"
    before = node.client.inspect_image("configured:1")
    assert before["references"] == ["docker.io/library/configured:1", "example.com/a/b:2"]
    skerry(node, "image", "rm", "configured:1")
    after = node.client.inspect_image("example.com/a/b:2")
    assert after["layers"] == before["layers"]
    done = skerry(node, "image", "tag", "configured:1", "other:1", check=False)
    assert (done.returncode, b"skerry image ls" in done.stderr) == (125, True)


def test_history_and_inspect_tell_what_is_there(node):
    """Layers with their sizes and files, shared ones marked; the config as it came."""
    image = node.client.inspect_image("configured:1")
    assert [layer["isShared"] for layer in image["layers"]] == [True, False]
    assert image["platform"].startswith("linux/")
    assert (image["isLocal"], image["usedBy"]) == (True, [])
    table = skerry(node, "image", "history", "configured:1").stdout.decode()
    assert table.split()[:4] == ["AGE", "SIZE", "LAYER", "INSTRUCTION"]
    assert json.loads(skerry(node, "image", "inspect", "configured:1").stdout) == image


def test_prune_spares_what_is_used(node):
    """A dry run removes nothing; without a terminal it has to be told; a stopped sandbox keeps its image."""
    with node.sandbox("user", "true"):
        node.wait_end("user")
        assert skerry(node, "image", "prune", "--dry-run").stdout == b"docker.io/library/configured:1\n"
        assert skerry(node, "image", "prune", check=False).returncode == 125
        assert len(node.client.images()) == 2
        done = skerry(node, "image", "prune", "-f")
        assert done.stdout == b"docker.io/library/configured:1\n"
        assert [image["reference"] for image in node.client.images()] == [images.REFERENCE]
        assert node.client.inspect_image(images.REFERENCE)["usedBy"] == ["default/user"]
    assert node.client.prune_images()["references"] == [images.REFERENCE]
    assert node.client.images() == ()


def test_what_is_not_kept_is_not_half_saved(ledger, tmp_path):
    """An agent that keeps no blobs says so, and no file appears."""
    with standalone.running(str(tmp_path), tag="k7", flags=("--keep-blobs=none",)) as node:
        node.client.import_image(images.busybox_layout(str(tmp_path / "plain")))
        with pytest.raises(Refused, match="--keep-blobs"):
            list(node.client.save_images([images.REFERENCE]))
        done = skerry(node, "image", "save", "-o", str(tmp_path / "saved.tar"), images.REFERENCE, check=False)
        assert done.returncode == 125
        assert not any("saved" in name for name in os.listdir(tmp_path))
