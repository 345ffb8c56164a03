"""The first process of ours on the real kernel: what becomes of orphans, signals, ends, and programs that cannot be run."""

from __future__ import annotations

import os

import pytest

from tests.harness import standalone

FOSTER = "for i in 1 2 3 4 5; do (sleep 0.2 & ); done; exec sleep 1000"
"""Five orphans end after 0.2 s; the program they were left by waits for nobody."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("init")
    with standalone.running_busybox(str(directory), tag="kx", flags=("--shells=0",)) as agent:
        yield agent


def test_orphans_are_reaped(node):
    """A first process that does not wait for them has them as zombies, the control; ours does wait."""
    with node.sandbox("with", "sh", "-c", FOSTER, init=True), node.sandbox("without", "sh", "-c", FOSTER):
        standalone.until(lambda: _states(node, "without") == "ZZZZZ")
        standalone.until(lambda: _states(node, "with") == "S")


def _states(node, name):
    """Of the children of the first process, zombies among them."""
    pid = node.inspect(name)["pid"]
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return "".join(_text(child, "State") for child in file.read().split())


@pytest.mark.parametrize(
    ("script", "reason", "exit_code"),
    [
        pytest.param("exit 0", "Completed", 0, id="completed"),
        pytest.param("exit 7", "Error", 7, id="exit code"),
        pytest.param("kill -KILL $$", "Error", 137, id="killed"),
        pytest.param("(sleep 60 & ); exit 3", "Error", 3, id="leaves somebody behind"),
    ],
)
def test_the_end_is_the_programs(node, script, reason, exit_code):
    """Its exit code, and 128 + n for a signal; what it leaves ends with it."""
    node.create("e", "sh", "-c", script, init=True)
    end = node.wait_end("e")
    assert (end.reason, end.exit_code) == (reason, exit_code)
    node.remove("e")


def test_signals_go_on_to_the_program(node):
    """A stop reaches it; without a handler TERM ends it all the same, which a PID 1 would not have noticed."""
    node.run("h", "sh", "-c", "trap 'exit 5' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done", init=True)
    standalone.until(lambda: "up" in node.output("h"))
    node.client.kill("h", signal="USR1")
    standalone.until(lambda: "usr1" in node.output("h"))
    node.client.stop("h")
    assert node.wait_end("h").exit_code == 5
    node.remove("h")
    node.run("d", "sleep", "1000", init=True, terminationGracePeriodSeconds=3600)
    node.client.stop("d")
    assert node.wait_end("d").exit_code == 143
    node.remove("d")


def test_the_program_is_a_child_of_a_tiny_one(node):
    """No interpreter stays, the program has its rights and no fd of ours; limits of memory still tell their kills."""
    with node.sandbox("p", "sleep", "1000", init=True, user="1000:1000"):
        pid = node.inspect("p")["pid"]
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            (child,) = file.read().split()
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:skerry-init")
        assert _field(pid, "VmRSS") < 100
        assert _field(child, "Uid") % 65_536 == 1000
        assert _text(child, "SigBlk") == "0" * 16
        assert _text(child, "NoNewPrivs") == "1"
        assert sorted(os.listdir(f"/proc/{child}/fd")) == ["0", "1", "2"]
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3"]
        assert os.readlink(f"/proc/{pid}/fd/3") == "anon_inode:[signalfd]"
        assert node.client.exec("p", ["sh", "-c", "echo x > /proc/1/exe"]).exit_code != 0
    node.create("m", "sh", "-c", "tail /dev/zero", init=True, resources={"limits": {"memory": "16Mi"}})
    assert node.wait_end("m").reason == "OOMKilled"
    node.remove("m")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        pytest.param(("/no/such",), "CommandNotFound", id="absent"),
        pytest.param(("nosuch",), "CommandNotFound", id="absent in PATH"),
        pytest.param(("/etc/passwd",), "CannotRunCommand", id="not executable"),
        pytest.param(("/proc/self/comm",), "CannotRunCommand", id="not a file to execute"),
    ],
)
def test_what_cannot_be_run_is_said(node, command, reason):
    """As without init."""
    found = node.run("c", *command, init=True)
    assert found.status.termination.reason == "StartFailed"
    assert standalone.ready_reason(found) == reason
    assert found.status.termination.message.startswith("spec.command")
    node.remove("c")


def _text(pid, name):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(line.split()[1] for line in file if line.startswith(f"{name}:"))


def _field(pid, name):
    return int(_text(pid, name))
