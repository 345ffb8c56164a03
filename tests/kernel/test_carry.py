"""Images carried in and out of a running agent, through its door, and read by other people's tools. Root; skopeo, umoci."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from skerry.errors import Refused
from tests.harness import dockerregistry, images, standalone
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


@pytest.mark.host("skopeo is not there, and a file's format does not depend on the kernel")
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


@pytest.mark.host("skopeo is not there, and a file's format does not depend on the kernel")
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


@pytest.mark.host("records of images do not depend on the kernel")
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


@pytest.mark.host("records of images do not depend on the kernel")
def test_history_and_inspect_tell_what_is_there(node):
    """Layers with their sizes and files, shared ones marked; the config as it came."""
    image = node.client.inspect_image("configured:1")
    assert [layer["isShared"] for layer in image["layers"]] == [True, False]
    assert image["platform"].startswith("linux/")
    assert (image["isLocal"], image["usedBy"]) == (True, [])
    table = skerry(node, "image", "history", "configured:1").stdout.decode()
    assert table.split()[:4] == ["AGE", "SIZE", "LAYER", "INSTRUCTION"]
    assert json.loads(skerry(node, "image", "inspect", "configured:1").stdout) == image


@pytest.mark.host("records of images do not depend on the kernel")
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


@pytest.mark.host("archives of images do not depend on the kernel")
def test_what_is_not_kept_is_not_half_saved(ledger, tmp_path):
    """An agent that keeps no blobs says so, and no file appears."""
    with standalone.running(str(tmp_path), tag="k7", flags=("--keep-blobs=none",)) as node:
        node.client.import_image(images.busybox_layout(str(tmp_path / "plain")))
        with pytest.raises(Refused, match="--keep-blobs"):
            list(node.client.save_images([images.REFERENCE]))
        with pytest.raises(Refused, match=r"127\.0\.0\.1"):
            list(node.client.push_image(images.REFERENCE, "127.0.0.1:1/a:1"))
        done = skerry(node, "image", "save", "-o", str(tmp_path / "saved.tar"), images.REFERENCE, check=False)
        assert done.returncode == 125
        assert not any("saved" in name for name in os.listdir(tmp_path))


WORK = """
set -e
echo changed > /etc/added; rm /home/alice -r; mkdir -p /srv/new; echo text > /srv/new/file; ln /srv/new/file /srv/new/same; ln -s file /srv/new/link
chown 1000:1000 /srv/new/file; chmod 4755 /srv/new/file; rm -r /tmp; mkdir /tmp; mkfifo /srv/fifo
dd if=/dev/zero of=/srv/sparse bs=1 count=1 seek=20M
touch /srv/.wh.not-a-whiteout
"""
LOOK = """cd /; find . -xdev | sed s,^./,, | while read -r p; do stat -c '%n|%A|%u/%g' "$p"; done"""
MOUNTED = {"dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "", "."}
"""The sandbox sees what lies over them."""


def listing(path):
    """What tar says of an archive, by name: kind, mode, owner, size, target."""
    lines = run("tar", "--numeric-owner", "-tvf", path).splitlines()
    found = {}
    for line in lines:
        mode, owner, size, _, _, name = line.split(None, 5)
        name, _, target = name.replace(" link to ", " -> ").partition(" -> ")
        found[name.removeprefix("./").rstrip("/")] = (mode, owner, size, target)
    return found


@pytest.mark.parametrize("is_stopped", [False, True], ids=["running", "stopped"])
def test_an_exported_root_is_what_the_sandbox_sees(node, tmp_path, is_stopped):
    """Merged from layers and changes: names, kinds, modes, owners, sizes as the sandbox itself lists them."""
    script = f"{WORK}\n{LOOK}\necho END\n" + ("" if is_stopped else "sleep 1000")
    with node.sandbox("a", "sh", "-c", script, image="configured:1", user="0"):
        if is_stopped:
            node.wait_end("a")
        else:
            wait_for_output(node, "a", "END\n")
        seen = {}
        for line in node.output("a").splitlines():
            if line.count("|") == 2:
                name, mode, owner = line.split("|")
                seen[name] = (mode, owner)
        target = tmp_path / "root.tar"
        skerry(node, "export", "-o", str(target), "a")
    found = listing(target)
    told = {name: (mode.replace("h", "-", 1) if mode[0] == "h" else mode, owner) for name, (mode, owner, _, _) in found.items()}
    names = (told.keys() | seen.keys()) - MOUNTED
    assert {name: (told.get(name), seen.get(name)) for name in names if told.get(name) != seen.get(name)} == {}
    assert found["srv/new/file"][:2] == ("-rwsr-xr-x", "1000/1000")
    assert found["srv/new/same"][3] == "srv/new/file"
    assert found["srv/sparse"][2] == str((20 << 20) + 1)
    assert "srv/.wh.not-a-whiteout" in found
    assert "home/alice" not in found
    assert target.stat().st_size < 8 << 20
    content = subprocess.run(["tar", "-xOf", str(target), "etc/added", "./etc/passwd"], check=False, capture_output=True).stdout
    assert content.startswith(b"changed\n")


def wait_for_output(node, name, text):
    node.wait(name, lambda _: text in node.output(name))


@pytest.mark.host("skopeo is not there; test_diffing.py reads writable layers of this kernel")
def test_a_committed_sandbox_is_an_image(node, tmp_path):
    """It runs with what was changed, shares the layers below, is read by others, and committed again from the same tree has the same layer."""
    with node.sandbox("a", "sh", "-c", WORK, image="configured:1", user="0"):
        assert node.wait_end("a").exit_code == 0
        changes = ["-c", 'CMD ["cat", "/etc/added"]', "-c", "ENV GREETING='hello world' HOME=/srv", "-c", "USER 1000", "-c", "LABEL made=here"]
        done = skerry(node, "commit", *changes, "-m", "words", "-a", "alice", "a", "new:1")
        again = node.client.commit("a", "new:2")
    assert done.stdout.split()[0] == b"docker.io/library/new:1"
    assert b"srv/.wh.not-a-whiteout" in done.stderr
    image, base = node.client.inspect_image("new:1"), node.client.inspect_image("configured:1")
    assert [layer["diffId"] for layer in image["layers"][:-1]] == [layer["diffId"] for layer in base["layers"]]
    assert image["layers"][-1]["diffId"] == again["layer"]["diffId"]
    assert image["config"]["Cmd"] == ["cat", "/etc/added"]
    assert {"GREETING=hello world", "HOME=/srv"} <= set(image["config"]["Env"])
    assert (image["config"]["User"], image["config"]["Labels"], image["author"]) == ("1000", {"made": "here"}, "alice")
    assert node.client.image_history("new:1")[-1]["comment"] == "words"
    with node.sandbox("b", "", image="new:1", command=None):
        assert node.wait_end("b").exit_code == 0
        assert node.output("b") == "changed\n"
    with node.sandbox("c", "sh", "-c", "ls -A /home /srv /srv/new /tmp; stat -c %A-%u-%h /srv/new/file; id -u; echo $GREETING", image="new:1"):
        node.wait_end("c")
        assert node.output("c") == (
            "/home:\n\n/srv:\nfifo\nnew\nsparse\n\n/srv/new:\nfile\nlink\nsame\n\n/tmp:\n-rwsr-xr-x-1000-2\n1000\nhello world\n"
        )
    skerry(node, "image", "save", "--format", "oci-dir", "-o", str(tmp_path / "new"), "new:1")
    run("umoci", "unpack", "--image", f"{tmp_path / 'new'}:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/added").read_text() == "changed\n"
    assert not os.path.lexists(tmp_path / "bundle/rootfs/home/alice")
    assert (tmp_path / "bundle/rootfs/srv/new/same").stat().st_nlink == 2


@pytest.mark.host("records of images do not depend on the kernel")
def test_a_sandbox_that_changed_nothing_is_committed(node):
    """Only the config is new: no layer comes to it."""
    with node.sandbox("a", "true", image="configured:1"):
        node.wait_end("a")
        done = node.client.commit("a", "same:1", changes=["WORKDIR /etc"])
    assert done["layer"] is None
    image = node.client.inspect_image("same:1")
    assert (len(image["layers"]), image["config"]["WorkingDir"]) == (2, "/etc")


@pytest.mark.host("the words of a refusal do not depend on the kernel")
@pytest.mark.parametrize(
    ("reference", "changes", "problem"),
    [
        pytest.param("UPPER", [], "reference", id="no reference"),
        pytest.param("a:1", ["RUN rm -rf /"], "changes no config", id="run"),
        pytest.param("a:1", ["COPY a b"], "changes no config", id="copy"),
        pytest.param("a:1", ["FROM busybox"], "FROM busybox", id="from"),
        pytest.param("a:1", ["CMD a\nRUN b"], "one line", id="two lines"),
        pytest.param("a:1", ["NONSENSE"], "NONSENSE", id="unknown"),
        pytest.param("a:1", ["EXPOSE 99999"], "port", id="no port"),
        pytest.param("a:1", ["USER a b"], "USER", id="no user"),
    ],
)
def test_a_commit_that_makes_no_sense_is_refused(node, reference, changes, problem):
    """With a sentence that names the change, and no image appears."""
    with node.sandbox("a", "true", image="configured:1"):
        node.wait_end("a")
        with pytest.raises(Refused, match=problem):
            node.client.commit("a", reference, changes=changes)
    assert len(node.client.images()) == 2


@pytest.mark.host("docker-registry and skopeo are not there")
def test_a_pushed_image_is_read_by_others(node, tmp_path):
    """From Debian's registry skopeo reads the same digest and layers, and it is pulled, pushed and saved again without its blobs being kept."""
    with dockerregistry.served(str(tmp_path / "registry")) as first, dockerregistry.served(str(tmp_path / "second")) as second:
        image = node.client.inspect_image("configured:1")
        done = skerry(node, "image", "push", "configured:1", f"{first.host}/team/app:1").stdout.decode().split()
        assert done == [f"{first.host}/team/app:1", image["digest"]]
        seen = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{first.host}/team/app:1"))
        assert (seen["Digest"], seen["Layers"]) == (image["digest"], [layer["digest"] for layer in image["layers"]])
        node.client.prune_images()
        skerry(node, "image", "pull", f"{first.host}/team/app:1")
        pulled = node.client.inspect_image(f"{first.host}/team/app:1")
        assert (pulled["digest"], pulled["isLocal"]) == (image["digest"], False)
        assert [layer["isBlobKept"] for layer in pulled["layers"]] == [False, False]
        skerry(node, "image", "tag", f"{first.host}/team/app:1", f"{second.host}/other:2")
        for target in (f"{second.host}/other:2", f"{first.host}/team/copy:1"):
            assert skerry(node, "image", "push", f"{first.host}/team/app:1", target).stdout.split()[1].decode() == image["digest"]
            assert run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{target}").strip() == image["digest"]
        skerry(node, "image", "save", "-o", str(tmp_path / "saved.tar"), f"{first.host}/team/app:1")
        assert not any(layer["isBlobKept"] for layer in node.client.inspect_image(f"{first.host}/team/app:1")["layers"])
    assert run("skopeo", "inspect", "--format", "{{.Digest}}", f"oci-archive:{tmp_path / 'saved.tar'}").strip() == image["digest"]
    done = skerry(node, "image", "save", "-o", str(tmp_path / "again.tar"), f"{first.host}/team/app:1", check=False)
    assert (done.returncode, b"--keep-blobs" in done.stderr, (tmp_path / "again.tar").exists()) == (125, True, False)


@pytest.mark.host("docker-registry is not there")
def test_a_push_needs_its_password(node, tmp_path):
    """Basic authentication, from a Docker config; without it a refusal that says so."""
    with dockerregistry.served(str(tmp_path / "registry"), has_password=True) as registry:
        target = f"{registry.host}/app:1"
        done = skerry(node, "image", "push", "configured:1", target, check=False)
        assert done.returncode == 125
        assert b"answers 401" in done.stderr
        auth = registry.write_auth(str(tmp_path / "auth.json"))
        skerry(node, "image", "push", "--auth-file", auth, "configured:1", target)
        seen = run("skopeo", "inspect", "--tls-verify=false", "--authfile", auth, "--format", "{{.Digest}}", f"docker://{target}").strip()
        assert seen == node.client.inspect_image("configured:1")["digest"]
