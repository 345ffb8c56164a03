"""`skerry image pull` and sandboxes without a cluster, against Debian's docker-registry: a real agent, a real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.harness import images, registry, standalone
from tests.harness.agents import python_environment

pytestmark = pytest.mark.host("it has no docker-registry and no skopeo")
USERS = {"alice": "in wonderland"}


@pytest.fixture
def private(tmp_path):
    """A registry with a password that holds team/app:1 and the larger team/big:1."""
    with registry.running(str(tmp_path / "registry"), users=USERS) as found:
        layout = images.busybox_layout(str(tmp_path / "layout"), name="busybox:latest")
        big = images.busybox_layout(str(tmp_path / "big"), name="busybox:latest", layers=[{"big": os.urandom(8 << 20)}])
        found.push(f"oci:{layout}:busybox:latest", "team/app:1")
        found.push(f"oci:{big}:busybox:latest", "team/big:1")
        yield found


@pytest.fixture
def config(tmp_path, private):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(private.docker_config("alice", USERS["alice"])))
    return str(path)


def skerry(node, *words: str):
    command = [sys.executable, "-m", "skerry", *words]
    return subprocess.run(command, env={**python_environment(), "SKERRY_SOCKET": node.socket_path}, capture_output=True, text=True, check=False)


def test_pull_by_command(tmp_path, private, config):
    """With credentials it prints the image, as text and as JSON; without, the registry's words."""
    with standalone.running(str(tmp_path), tag="kp") as node:
        refused = skerry(node, "image", "pull", f"{private.host}/team/app:1")
        assert refused.returncode != 0
        assert "UNAUTHORIZED: authentication required" in refused.stderr
        assert skerry(node, "image", "ls", "-q").stdout == ""
        pulled = skerry(node, "image", "pull", "--auth-file", config, "-o", "json", f"{private.host}/team/app:1")
        image = json.loads(pulled.stdout)
        assert (image["reference"], image["layers"]) == (f"{private.host}/team/app:1", 1)
        again = skerry(node, "image", "pull", "--auth-file", config, f"{private.host}/team/app:1")
        assert again.stdout == f"{image['reference']}   {image['digest']}\n"
        looks = list(node.client.pull_image(f"{private.host}/team/big:1", docker_config=json.dumps(private.docker_config("alice", USERS["alice"]))))
        assert looks[-1]["image"]["layers"] == 2
        assert all(set(look) == {"progress"} for look in looks[:-1])


def test_a_sandbox_pulls_with_the_nodes_credentials(tmp_path, private, config):
    """Standalone: --docker-config opens for every sandbox; `run` with an absent tag says why and does not wait."""
    with standalone.running(str(tmp_path), tag="kp", flags=(f"--docker-config={config}",)) as node:
        node.create("app", "sh", "-c", "echo pulled; sleep 1000", image=f"{private.host}/team/app:1")
        node.wait("app", lambda found: standalone.ready_reason(found) == "Running", seconds=180)
        told = {event["reason"]: event["message"] for event in node.inspect("app")["events"]}
        assert told["Pulling"] == f'pulling image "{private.host}/team/app:1"'
        assert "moved" in told["Pulled"]
        node.remove("app")
        absent = skerry(node, "run", "--rm", f"{private.host}/team/app:none", "true")
        assert absent.returncode != 0
        assert "MANIFEST_UNKNOWN" in absent.stderr


def test_ctrl_c_ends_a_pull(tmp_path, private, config):
    """The agent gives it up; nothing of it is visible, and the next pull is whole."""
    with standalone.running(str(tmp_path), tag="kp", flags=(f"--docker-config={config}",)) as node:
        private.pause()
        try:
            command = [sys.executable, "-m", "skerry", "image", "pull", f"{private.host}/team/big:1", "--socket", node.socket_path]
            with subprocess.Popen(
                command,
                env=python_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=_heed_interrupts,  # noqa: PLW1509
            ) as pulling:
                time.sleep(1.0)
                assert pulling.poll() is None
                pulling.send_signal(signal.SIGINT)
                try:
                    pulling.communicate(timeout=60)
                finally:
                    pulling.kill()
            assert pulling.returncode not in {0, -signal.SIGKILL}
        finally:
            private.resume()
        assert skerry(node, "image", "ls", "-q").stdout == ""
        assert skerry(node, "image", "pull", f"{private.host}/team/big:1").returncode == 0


def _heed_interrupts() -> None:
    """Whoever runs these tests in the background ignores SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
