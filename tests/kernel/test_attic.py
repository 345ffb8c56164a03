"""Agent and keeper dead at once: what a program does meanwhile, its end included, is told by the next ones."""

from __future__ import annotations

import glob
import os
import signal

import pytest

from tests.harness import images, standalone

# a line at once, a line and an end when USR1 comes
SCRIPT = "trap 'echo last; exit 9' USR1; echo first; while :; do sleep 0.05; done"
TELLS_EXITS = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)


@pytest.fixture
def node(ledger, tmp_path):
    """A node with busybox on it, and a sandbox `x` that has written its first line."""
    with standalone.running(str(tmp_path), tag="ka") as agent:
        agent.client.import_image(images.busybox_layout(str(tmp_path / "layout")))
        agent.run("x", "sh", "-c", SCRIPT, network={"mode": "None"})
        standalone.until(lambda: agent.output("x") == "first\n")
        yield agent


def end_while_nobody_looks(node):
    """Both killed; then the program is told to end, and ends."""
    pid = node.inspect("x")["pid"]
    node.kill()
    node.kill_keeper()
    os.kill(pid, signal.SIGUSR1)
    standalone.until(lambda: not is_alive(pid))


def test_an_end_that_nobody_saw_is_told(node):
    """Exit code and last words, though agent and keeper were dead before and after."""
    end_while_nobody_looks(node)
    node.start()
    end = node.wait_end("x")
    assert node.output("x") == "first\nlast\n"
    assert (end.reason, end.exit_code) == (("Error", 9) if TELLS_EXITS else ("KeeperLost", None)), "6.15 is the first kernel that tells"


def test_without_the_attic_it_is_unknown_and_said_so(node):
    """The control: the attic dead too, nobody can know. Nothing is guessed."""
    os.kill(find_attic(node), signal.SIGKILL)
    end_while_nobody_looks(node)
    node.start()
    end = node.wait_end("x")
    assert (end.reason, end.exit_code) == ("KeeperLost", None)
    assert node.output("x") == "first\n"


@pytest.mark.host("who starts whom does not depend on the kernel")
def test_a_dead_attic_is_replaced_with_the_keeper(node):
    """Nobody misses it; the next keeper starts another, and puts what lives there."""
    first = find_attic(node)
    os.kill(first, signal.SIGKILL)
    node.kill_keeper()
    standalone.until(lambda: find_attic(node) not in {None, first})
    standalone.until(lambda: node.inspect("x")["pid"] is not None)
    end_while_nobody_looks(node)
    node.start()
    node.wait_end("x")
    assert node.output("x") == "first\nlast\n"


@pytest.mark.host("what the attic keeps is its own book-keeping")
def test_what_is_over_is_not_kept(node):
    """With the sandbox its descriptors go: the attic holds as many as before the first."""
    attic = find_attic(node)
    before = len(os.listdir(f"/proc/{attic}/fd"))
    node.remove("x")
    standalone.until(lambda: len(os.listdir(f"/proc/{attic}/fd")) == before - 3)


def find_attic(node):
    """The pid of the process that has this node's attic for its standard input."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        inodes = {fields[6] for line in file if (fields := line.split())[7:8] and node.place.run_dir + "/attic.sock" in fields[7]}
    for path in glob.glob("/proc/[0-9]*/fd/0"):
        try:
            if os.readlink(path).removeprefix("socket:[").removesuffix("]") in inodes:
                return int(path.split("/")[2])
        except OSError:
            continue
    return None


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
