"""What `skerry run` brings along: variables of objects and files, volumes by docker's word. On the real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.harness import agents, images, standalone


@pytest.fixture
def node(ledger, tmp_path):
    """A node whose policy admits one directory of the host."""
    (tmp_path / "host").mkdir()
    with standalone.running(str(tmp_path), tag="va", flags=("--shells=0", f"--host-path-prefix={tmp_path}/host")) as agent:
        agent.client.import_image(images.busybox_layout(str(tmp_path / "layout")))
        yield agent


def test_variables_of_objects(node):
    """Waited for while missing, seen by the program and by execs, looked up anew by the next start only; on no disk and in no answer."""
    secret = "a-word-that-stands-nowhere-else"
    env = [
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "c", "key": "word"}}},
        {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "status.address"}}},
        {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}},
    ]
    found = node.run("v", "sh", "-c", 'trap "exit 0" TERM; env; while :; do sleep 1 & wait $!; done', env=env)
    assert standalone.ready_reason(found) == "VariableNotReady"
    assert "spec.env[WORD].valueFrom: no Secret c" in next(each.message for each in found.status.conditions if each.type == "Ready")
    _write_secret(node, secret)
    running = node.wait("v", lambda each: standalone.ready_reason(each) == "Running")
    wanted = {f"WORD={secret}", "WHO=v", f"WHERE={running.status.address}"}
    standalone.until(lambda: wanted <= set(node.output("v").splitlines()))
    assert "MAYBE" not in node.output("v")
    _write_secret(node, "another")
    assert wanted <= set(node.client.exec("v", ["env"]).stdout.decode().splitlines())
    assert secret not in json.dumps(node.inspect("v")) + _read(node.log_path)
    assert not [path for path in _files(node.place.run_dir) + _files(os.path.join(node.place.state_dir, "status")) if secret in _read(path)]
    node.client.stop("v")
    node.wait("v", lambda each: each.status.phase == "Stopped")
    node.client.start("v")
    standalone.until(lambda: "WORD=another" in node.output("v"))
    node.remove("v")


def test_run_with_volumes_and_a_file_of_variables(node, tmp_path):
    """`-v` and `--env-file` as docker has them; what the node's policy refuses says so and leaves nothing."""
    (tmp_path / "host" / "seed").write_text("from the node\n")
    (tmp_path / "env").write_text("# words\nA=file\nB=two words\n")
    script = "cat /seed/seed; echo x > /seed/y 2>/dev/null || echo refused; echo kept > /data/f; cat /again/f; touch /own/f; echo $A $B"
    words = (
        "-v",
        f"{tmp_path}/host:/seed:ro",
        "-v",
        "data:/data",
        "-v",
        "data:/again",
        "-v",
        "/own",
        "--env-file",
        f"{tmp_path}/env",
        "-e",
        "A=option",
    )
    done = _skerry(node, "run", "--rm", *words, "busybox:latest", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "from the node\nrefused\nkept\noption two words\n"), done.stderr
    done = _skerry(node, "run", "-v", f"{tmp_path}:/seed", "busybox:latest", "true")
    assert done.returncode == 125
    assert "this node's policy refuses" in done.stderr
    assert node.client.list() == ()


def _skerry(node, *words: str):
    environment = {**agents.python_environment(), "SKERRY_SOCKET": node.socket_path}
    command = [sys.executable, "-m", "skerry", *words]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _write_secret(node, word):
    path = os.path.join(node.manifests, "object.json")
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}, "stringData": {"word": word}}
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(body, file)
    os.rename(path + ".tmp", path)


def _files(directory):
    return [os.path.join(top, name) for top, _, names in os.walk(directory) for name in names if os.path.isfile(os.path.join(top, name))]


def _read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
