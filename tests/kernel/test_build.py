"""Builds on the real kernel: RUN in sandboxes of ours, through the command line, to images that run at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import agents, images, standalone


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node with busybox on it, shared: every build here has a name of its own."""
    directory = str(tmp_path_factory.mktemp("node"))
    layout = images.busybox_layout(f"{directory}/layout")
    with standalone.running(directory, tag="b0", flags=("--shells=0",)) as agent:
        agent.client.import_image(layout)
        with agent.sandbox("warm", "true"):  # before 6.12 a layer's first use attaches a loop device, kept with the layer
            agent.wait_end("warm")
        yield agent


def build(node, context, *arguments: str, environment=None):
    """Run `skerry build`; the finished process comes back."""
    command = [sys.executable, "-m", "skerry", "build", "--socket", node.socket_path, *arguments, str(context)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**agents.python_environment(), **(environment or {})})


def write(directory, files):
    """Files below *directory*."""
    for name, content in files.items():
        os.makedirs(os.path.dirname(directory / name), exist_ok=True)
        (directory / name).write_text(content)
    return directory


def test_a_built_image_runs_at_once(node, tmp_path):
    """COPY, RUN as another user, ENV and CMD: built through the command line, then run."""
    dockerfile = """
        FROM busybox
        ENV greeting=hello
        WORKDIR /app
        COPY --chown=alice who .
        USER alice
        RUN id -un > /tmp/who && echo "$greeting $(cat who)"
        CMD ["sh", "-c", "echo $greeting $(cat who) $(cat /tmp/who); stat -c %U /app/who /tmp/who"]
    """
    context = write(tmp_path, {"Dockerfile": dockerfile, "who": "world"})
    done = build(node, context, "-t", "app:1")
    assert done.returncode == 0, done.stderr
    assert "hello world\n" in done.stderr
    with node.sandbox("app", image="app:1"):
        node.wait_end("app")
        assert node.output("app") == "hello world alice\nalice\nalice\n"
