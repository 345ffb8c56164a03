"""Pausing on the real kernel, through the manifest and the command line: held still, let go on, stopped and removed all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from skerry.errors import Refused
from tests.harness import standalone
from tests.harness.agents import python_environment

COUNT = "trap 'exit 5' TERM; n=0; while :; do n=$((n + 1)); echo $n > /tmp/n; done"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pause")
    with standalone.running_busybox(str(directory), tag="kp", flags=("--shells=0",)) as agent:
        yield agent


def test_a_paused_sandbox_gets_no_time_and_goes_on(node):
    """Paused, nothing in it moves and nobody enters; an agent that starts anew sees it so; Running lets it go on where it was."""
    node.run("p", "sh", "-c", COUNT)
    counter = f"/proc/{node.inspect('p')['pid']}/root/tmp/n"
    _skerry(node, "pause", "p")
    found = node.client.get("p")
    assert (standalone.ready_reason(found), found.status.phase) == ("Paused", "Paused")
    _assert_still(counter)
    with pytest.raises(Refused) as refused:
        node.client.exec("p", ["true"])
    assert refused.value.reason == "Paused"
    node.kill()
    node.start()
    node.wait("p", lambda found: standalone.ready_reason(found) == "Paused")
    _assert_still(counter)
    _skerry(node, "unpause", "p")
    before = _read(counter)
    deadline = time.monotonic() + 180
    while _read(counter) == before:
        assert time.monotonic() < deadline
    assert node.client.get("p").status.phase == "Running"
    assert node.client.exec("p", ["true"]).exit_code == 0
    node.remove("p")


def test_a_paused_sandbox_is_stopped_and_removed(node):
    """A stop lets it go on, so that it hears the signal; a removal needs no unpausing."""
    for name in ("s", "r"):
        node.run(name, "sh", "-c", COUNT)
        _skerry(node, "pause", name)
    node.client.stop("s")
    ended = node.wait("s", lambda found: standalone.ready_reason(found) == "Stopped")
    assert ended.status.termination.exit_code == 5
    node.remove("s")
    node.remove("r")


def test_one_that_starts_paused_is_started_and_held(node):
    """desiredState: Paused from the beginning."""
    node.create("b", "sh", "-c", COUNT, desiredState="Paused")
    node.wait("b", lambda found: standalone.ready_reason(found) == "Paused")
    node.remove("b")


def _assert_still(path):
    before = _read(path)
    time.sleep(0.3)
    assert _read(path) == before


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def _skerry(node, *words: str):
    command = [sys.executable, "-m", "skerry", *words]
    subprocess.run(command, env={**os.environ, **python_environment(), "SKERRY_SOCKET": node.socket_path}, check=True, capture_output=True)
