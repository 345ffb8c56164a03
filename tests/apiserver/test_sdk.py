"""The SDK by its own page: every example of docs/sdk.md runs against a cluster; and what the page promises of failures."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import subprocess
import sys

import pytest

import skerry
from skerry import aio
from tests.harness.agents import python_environment
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/sdk.md"
_EXAMPLES = re.findall(r"^```python\n(.*?)^```", _PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
_EXPECTED = [
    "3 b'hello\\n'\n",
    "b'abc'\n1 b'out\\n'\n2 b'err\\n'\n7\n",
    "b'from a file\\n'\nleaf\n\nb'leaf\\n'\n",
    "True\nstdout b'first\\n'\nstdout b'second\\n'\n5 Error\n",
    "[b'0\\n', b'1\\n', b'2\\n']\n1 b'through\\n'\n0\n",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster.start(str(tmp_path_factory.mktemp("sdk")), tag="sd", agent_flags=["--shells=0"]) as running:
        yield running


@pytest.fixture
def client(cluster):
    return skerry.connect(kubeconfig_path=cluster.plane.kubeconfig)


def test_the_page_has_the_examples_that_are_expected():
    """One expectation for each."""
    assert len(_EXAMPLES) == len(_EXPECTED)


@pytest.mark.parametrize("number", range(len(_EXPECTED)))
def test_examples_print_what_they_say(cluster, client, number):
    """As a program of its own, through KUBECONFIG; it leaves no sandbox."""
    environment = {**python_environment(), "KUBECONFIG": cluster.plane.kubeconfig}
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", _EXAMPLES[number]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    if number == 1:  # two streams race
        done.stdout = "\n".join([*sorted(done.stdout.splitlines()[:-1], key=lambda line: (line[0] != "b", line)), *done.stdout.splitlines()[-1:], ""])
    assert (done.stdout, done.returncode) == (_EXPECTED[number], 0), done.stderr
    assert client.list() == ()


def test_what_cannot_start_says_why_and_leaves_nothing(client):
    """A program that is not there; an image that is not there and may not be pulled."""
    with pytest.raises(skerry.NotStarted, match="nothing-of-this-name"):
        client.sandbox("busybox", ["/nothing-of-this-name"])
    with pytest.raises(skerry.NotStarted, match="no/such"):
        client.sandbox("localhost:1/no/such:image", spec={"imagePullPolicy": "Never"}, timeout_seconds=10)
    assert client.list() == ()


def test_a_block_that_raises_removes_its_sandbox_and_removing_twice_is_fine(client):
    """The error passes, the sandbox goes."""
    box = client.sandbox("busybox")
    assert box.read().metadata.name == box.name
    with pytest.raises(ZeroDivisionError), box:
        raise ZeroDivisionError
    box.remove()
    assert client.list() == ()
    with pytest.raises(skerry.Refused) as caught:
        box.exec(["true"])
    assert caught.value.status == 404


def test_files_of_any_content_and_what_is_none(client):
    """A binary file comes back as it went, with its mode; a directory and nothing are told apart."""
    data = os.urandom(3 << 20)
    with client.sandbox("busybox") as box:
        box.write_file("/tmp/data", data, mode=0o640)
        assert box.read_file("/tmp/data") == data
        assert box.exec(["stat", "-c", "%a %s", "/tmp/data"]).stdout == f"640 {len(data)}\n".encode()
        for path in ("/tmp", "/tmp/nothing"):
            with pytest.raises(skerry.SkerryError):
                box.read_file(path)
        with pytest.raises(skerry.SkerryError):
            box.read_file("/tmp/data", limit_bytes=1000)
        with pytest.raises(skerry.SkerryError):
            box.write_file("/nowhere/data", b"x")


async def test_a_call_that_is_given_up_does_not_hold_the_loop(client):
    """A wait that is cancelled returns at once; other calls go on meanwhile."""
    async with await aio.AsyncClient(client).sandbox("busybox") as box:
        waiting = asyncio.create_task(box.wait())
        assert (await box.exec(["echo", "meanwhile"])).stdout == b"meanwhile\n"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_an_agent_of_a_cluster_is_for_looking(cluster):
    """Over the socket of a node's agent, what makes sandboxes is refused in words."""
    local = skerry.Client(cluster.agents[0].socket_path)
    with pytest.raises(skerry.Refused, match="part of a cluster"):
        local.sandbox("busybox")
