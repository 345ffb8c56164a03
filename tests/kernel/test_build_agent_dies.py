"""The agent killed in the middle of builds: the next one reaps what they left, and building again works."""

from __future__ import annotations

import time

import pytest

from tests.harness import clibuilds, images, standalone

DOCKERFILE = (
    "FROM busybox\nCOPY a /\nRUN echo one > /one\nARG pause={pause}\nRUN echo started; sleep $pause; echo two > /two\nRUN echo three > /three\n"
)


@pytest.fixture
def node(ledger, tmp_path):
    layout = images.busybox_layout(str(tmp_path / "layout"))
    with standalone.running(str(tmp_path), tag="b2", flags=("--shells=0",)) as agent:
        agent.client.import_image(layout)
        yield agent


def test_killed_while_a_run_runs(node, tmp_path):
    """The sandbox goes on for a moment as any would; the next agent finds an orphan, removes it, and the cache has what was done."""
    context = clibuilds.write(tmp_path / "context", {"Dockerfile": DOCKERFILE.format(pause=1000), "a": "a"})
    with clibuilds.start(node, context, "-t", "app:1") as client:
        clibuilds.wait_for_line(client.stderr, b"started\n")
        (uid,) = clibuilds.guests(node)
        node.kill()
        assert client.wait(timeout=120) == 125
    assert clibuilds.guests(node) == [uid]
    node.start()
    clibuilds.wait_until(lambda: not clibuilds.guests(node))
    done = clibuilds.build(node, context, "-t", "app:1", "--build-arg", "pause=0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("--> cached") == 2


@pytest.mark.host("what is left of the builder's files does not depend on the kernel")
@pytest.mark.parametrize("milliseconds", [0, 30, 60, 100, 150, 220, 300, 400, 550])
def test_killed_at_any_moment(node, tmp_path, milliseconds):
    """Wherever it was: after a restart nothing of the build is left but whole layers, and the same build gives an image."""
    context = clibuilds.write(tmp_path / "context", {"Dockerfile": DOCKERFILE.format(pause=0), "a": "a"})
    with clibuilds.start(node, context, "-t", "app:1") as client:
        assert client.stderr.readline().startswith(b"STEP 1")
        time.sleep(milliseconds / 1000)
        node.kill()
        client.wait(timeout=120)
    node.start()
    clibuilds.wait_until(lambda: not clibuilds.guests(node))
    done = clibuilds.build(node, context, "-t", "app:1")
    assert done.returncode == 0, done.stderr
    with node.sandbox("app", "cat", "/a", "/one", "/two", "/three", image="app:1"):
        node.wait_end("app")
        assert node.output("app") == "aone\ntwo\nthree\n"
