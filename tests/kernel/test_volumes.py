"""Volumes on the real kernel: what they hold, how long, for whom, and where a hostile link does not lead."""

from __future__ import annotations

import base64
import json
import os

import pytest

from tests.harness import images, standalone

LOOP = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"


@pytest.fixture(scope="module")
def host_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("host"))


@pytest.fixture
def node(ledger, tmp_path, host_dir):
    """A node whose policy admits one directory of the host; its busybox has links that lead astray."""
    layer = {"astray": "/proc", "out": "/../../../..", "inner/etc-link": "/etc"}
    flags = ("--shells=1", f"--host-path-prefix={host_dir}", "--refresh-seconds=0.2")
    with standalone.running(str(tmp_path), tag="vo", flags=flags) as agent:
        agent.client.import_image(images.busybox_layout(str(tmp_path / "layout"), layers=[layer]))
        yield agent


def test_an_empty_directory_lives_as_long_as_the_sandbox(node):
    """Writable by any user of the image; kept over stop and start; gone with the object."""
    spec = _volume({"emptyDir": {}}, user="alice")
    found = node.run("e", "sh", "-c", f"echo x >> /data/file; cat /data/file; {LOOP}", **spec)
    node.client.stop("e")
    node.wait("e", lambda each: each.status.phase == "Stopped")
    node.client.start("e")
    node.wait("e", lambda each: standalone.ready_reason(each) == "Running" and each.status.observed_generation >= 3)
    standalone.until(lambda: node.output("e") == "x\nx\nx\n")
    node.remove("e")
    assert not os.path.exists(os.path.join(node.place.state_dir, "scratch", found.metadata.uid))


def test_a_size_limit_holds(node):
    """More than it holds is ENOSPC in the volume and nowhere else; its filesystem goes with the sandbox."""
    script = "dd if=/dev/zero of=/data/big bs=1M count=20 2>&1 | grep -o 'No space left'; wc -c < /data/big; echo y > /elsewhere && cat /elsewhere"
    node.run("s", "sh", "-c", script, **_volume({"emptyDir": {"sizeLimit": "8Mi"}}))
    node.wait_end("s")
    said, size, elsewhere = node.output("s").splitlines()
    assert (said, elsewhere) == ("No space left", "y")
    assert 4 << 20 < int(size) < 8 << 20
    node.remove("s")
    assert os.listdir(os.path.join(node.place.state_dir, "volumes")) == []


@pytest.mark.parametrize(
    ("kind", "source", "data"),
    [
        pytest.param("ConfigMap", {"configMap": {"name": "c"}}, {"data": {"key": "one\n"}}, id="configMap"),
        pytest.param(
            "Secret",
            {"secret": {"secretName": "c", "defaultMode": 0o400}},
            {"data": {"key": base64.b64encode(b"one\n").decode()}},
            id="secret",
        ),
    ],
)
def test_objects_are_files_that_follow_them(node, kind, source, data):
    """Read-only, of root, in memory; missing ones are waited for; a change comes in as a whole."""
    script = "cat /data/key; stat -c '%u %a' -L /data/key; (echo z > /data/key) 2>/dev/null || echo refused"
    found = node.run("o", "sh", "-c", f"{script}; {LOOP}", **_volume(source))
    assert standalone.ready_reason(found) == "VolumeNotReady"
    assert f"no {kind} c" in next(each.message for each in found.status.conditions if each.type == "Ready")
    _write_object(node, kind, data)
    node.wait("o", lambda each: standalone.ready_reason(each) == "Running")
    mode = "400" if kind == "Secret" else "644"
    standalone.until(lambda: node.output("o") == f"one\n0 {mode}\nrefused\n")
    _write_object(node, kind, {"stringData" if kind == "Secret" else "data": {"key": "two\n", "new": "n\n"}})
    root = f"/proc/{node.inspect('o')['pid']}/root/data"
    standalone.until(lambda: _read(f"{root}/key") == "two\n" and sorted(name for name in os.listdir(root) if name[0] != ".") == ["key", "new"])
    assert _filesystem(os.path.join(node.place.run_dir, "sandboxes", found.metadata.uid, "volumes")) == "tmpfs"
    node.remove("o")


def test_paths_of_the_host_need_its_policy(node, host_dir, tmp_path):
    """Below the prefix: shared both ways, owners' numbers kept. Elsewhere, also by a link: refused for good, with the field named."""
    shared = os.path.join(host_dir, "shared")
    os.makedirs(shared, exist_ok=True)
    _write(os.path.join(shared, "in"), "from the host\n")
    node.run("h", "sh", "-c", "cat /data/in; echo out > /data/out; stat -c %u /data/in", **_volume({"hostPath": {"path": shared}}))
    node.wait_end("h")
    assert node.output("h") == "from the host\n0\n"
    assert (_read(os.path.join(shared, "out")), os.stat(os.path.join(shared, "out")).st_uid) == ("out\n", 0)
    node.remove("h")
    node.run(
        "r", "sh", "-c", "(echo x > /data/never) 2>/dev/null || echo refused", **_volume({"hostPath": {"path": shared}}, mount={"readOnly": True})
    )
    node.wait_end("r")
    assert node.output("r") == "refused\n"
    node.remove("r")
    os.symlink(str(tmp_path), os.path.join(host_dir, "link"))
    for number, path in enumerate((str(tmp_path), host_dir + "x", os.path.join(host_dir, "link"))):
        name = f"no{number}"
        node.create(name, "true", **_volume({"hostPath": {"path": path}}))
        found = node.wait(name, lambda each: each.status.phase == "Failed")
        assert standalone.ready_reason(found) == "HostPathRefused"
        assert "spec.volumes[data].hostPath" in found.status.termination.message
        node.remove(name)
    os.unlink(os.path.join(host_dir, "link"))


def test_a_hostile_sub_path_stays_in_its_volume(node, host_dir):
    """Links that a sandbox left in a shared volume are resolved inside it, for directories and files, as names and on the way."""
    shared = os.path.join(host_dir, "hostile")
    os.makedirs(os.path.join(shared, "etc"), exist_ok=True)
    _write(os.path.join(shared, "etc", "inside"), "inside\n")
    for name, target in (("absolute", "/etc"), ("upwards", "../../../../../../etc"), ("magic", "/proc/self/root/etc")):
        os.symlink(target, os.path.join(shared, name))
    for name in ("absolute", "upwards"):
        node.run(name, "sh", "-c", "ls /data", **_volume({"hostPath": {"path": shared}}, mount={"subPath": name}))
        node.wait_end(name)
        assert node.output(name) == "inside\n", "the volume's own etc, not the host's"
        node.remove(name)
    node.create("magic", "true", **_volume({"hostPath": {"path": shared}}, mount={"subPath": "magic"}))
    found = node.wait("magic", lambda each: each.status.phase == "Failed")
    assert standalone.ready_reason(found) == "InvalidVolume"
    node.remove("magic")


@pytest.mark.parametrize("target", ["/astray/sys", "/astray/1/root"])
def test_a_target_that_the_image_leads_into_proc_is_refused(node, target):
    """Volumes go onto the root filesystem and onto each other, never onto proc, sys or dev."""
    node.create("t", "true", volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": target}])
    found = node.wait("t", lambda each: each.status.phase == "Failed")
    assert standalone.ready_reason(found) == "InvalidMountPath"
    assert "spec.volumeMounts" in found.status.termination.message
    node.remove("t")


def test_targets_are_made_and_nest(node):
    """Missing directories are made, links stay inside the root, a volume may hold another, a file is mounted on a file."""
    volumes = [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {"sizeLimit": "4Mi"}}]
    mounts = [
        {"name": "b", "mountPath": "/deep/er/b"},
        {"name": "a", "mountPath": "/deep/er"},
        {"name": "a", "mountPath": "/out/made", "subPath": "x/y"},
    ]
    script = "echo 1 > /deep/er/b/f; ls /deep/er /made; touch /made/there; ls /deep/er/x/y; grep -c ' /deep/er' /proc/self/mounts"
    node.run("n", "sh", "-c", script, volumes=volumes, volumeMounts=mounts)
    node.wait_end("n")
    assert node.output("n") == "/deep/er:\nb\nx\n\n/made:\nthere\n2\n"
    node.remove("n")


def _volume(source, *, user=None, mount=None):
    spec = {"volumes": [{"name": "data", **source}], "volumeMounts": [{"name": "data", "mountPath": "/data", **(mount or {})}]}
    return spec if user is None else spec | {"user": user}


def _write_object(node, kind, body):
    path = os.path.join(node.manifests, "object.json")
    _write(path + ".tmp", json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": "c"}, **body}))
    os.rename(path + ".tmp", path)


def _filesystem(path):
    mounts = [line.split()[1:3] for line in _read("/proc/mounts").splitlines()]
    return max((mount for mount in mounts if path == mount[0] or path.startswith(mount[0].rstrip("/") + "/")), key=lambda mount: len(mount[0]))[1]


def _write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
