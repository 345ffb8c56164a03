"""Lives on the real kernel: restarts held back across deaths of the agent, times that hold, ends that say why."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.harness import reboots, standalone

FLAGS = ("--shells=0", "--restart-backoff-seconds=1", "--restart-backoff-max-seconds=4", "--restart-backoff-reset-seconds=600")
FORKS = "i=0; while [ $i -lt 20 ]; do sleep 60 & i=$((i+1)); done; wait"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lives")
    with standalone.running_busybox(str(directory), tag="kl", flags=FLAGS) as agent:
        yield agent


def test_restarts_are_held_back_longer_each_time_also_by_a_new_agent(node):
    """The first at once, the second and the third after at least 1 and 2 s, with the agent killed while one is held back."""
    node.create("r", "sh", "-c", "cat /proc/uptime; exit 3", restartPolicy="Always")
    node.wait("r", lambda found: found.status.restarts == 2)
    node.kill()
    node.start()
    node.wait("r", lambda found: found.status.restarts == 4)
    began = [float(line.split()[0]) for line in node.output("r").splitlines()]
    assert began[2] - began[1] >= 1.0
    assert began[3] - began[2] >= 2.0
    node.remove("r")


def test_an_end_that_nobody_saw_at_once_is_timed_by_when_it_was(node):
    """The agent is dead as the program ends, and still when the time for the object is over: it goes as soon as there is an agent."""
    node.create("f", "sleep", "1000", ttl={"secondsAfterFinished": 2})
    node.wait("f", lambda found: standalone.ready_reason(found) == "Running")
    uid, pid = node.client.get("f").metadata.uid, node.inspect("f")["pid"]
    exit_path = os.path.join(node.place.run_dir, "sandboxes", uid, "exit")
    node.kill()
    os.kill(pid, signal.SIGKILL)
    standalone.until(lambda: os.path.exists(exit_path))
    time.sleep(2.2)  # the time that it may stay
    node.start()
    standalone.until(lambda: all(each.metadata.name != "f" for each in node.client.list()))
    log = _read(node.log_path)
    assert "ExpireObject" in next(line for line in log.splitlines() if f"uid={uid}" in line and "RecordEnd" in line), "in the first look"


def test_active_seconds_are_right_when_the_agent_dies_meanwhile(node):
    """Counted from the start of the program, by the clock since boot."""
    node.create("a", "sh", "-c", "trap 'cat /proc/uptime; exit 0' TERM; cat /proc/uptime; while :; do sleep 0.05; done", ttl={"activeSeconds": 3})
    node.wait("a", lambda found: standalone.ready_reason(found) == "Running")
    node.kill()
    node.start()
    end = node.wait_end("a")
    began, ended = (float(line.split()[0]) for line in node.output("a").splitlines())
    assert end.reason == "Expired"
    assert ended - began >= 2.9
    node.remove("a")


@pytest.mark.parametrize(
    ("reason", "command", "spec"),
    [
        pytest.param("PidsLimit", ("sh", "-c", FORKS), {"resources": {"limits": {"pids": 8}}}, id="no more forks"),
        pytest.param("Completed", ("sh", "-c", FORKS + "; sleep 0"), {"resources": {"limits": {"pids": 64}}}, id="forks enough"),
    ],
)
def test_an_end_by_the_limit_of_processes_says_so(node, reason, command, spec):
    """The shell ends with an error when it cannot fork; its children end with it."""
    if reason == "Completed":
        command = ("sh", "-c", FORKS.replace("sleep 60", "true"))
    node.create("p", *command, **spec)
    assert node.wait_end("p").reason == reason
    node.remove("p")


def test_an_end_on_a_full_disk_says_so(node):
    """A volume with a size, filled by blocks or by inodes; a failure with room left is an Error."""
    data = {"volumes": [{"name": "data", "emptyDir": {"sizeLimit": "8Mi"}}], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    for name, script, reason in (
        ("blocks", "dd if=/dev/zero of=/data/f bs=64k", "DiskFull"),
        ("inodes", "i=0; while : > /data/$i; do i=$((i+1)); done; exit 1", "DiskFull"),
        ("room", "dd if=/dev/zero of=/data/f bs=64k count=4; exit 1", "Error"),
    ):
        node.create(name, "sh", "-c", script, **data)
        end = node.wait_end(name)
        assert end.reason == reason, (name, end)
        assert ("the volume data full" in end.message) == (reason == "DiskFull")
        node.remove(name)


def test_a_reboot_ends_what_ran_and_keeps_what_had_ended(node):
    """Nothing is left of processes and runtime records, or records of another boot are: NodeRebooted, once; Always starts it again."""
    node.run("ran", "sleep", "1000")
    node.run("again", "sleep", "1000", restartPolicy="Always")
    node.run("stale", "sleep", "1000")
    node.run("ended", "sh", "-c", "exit 4")
    node.wait_end("ended")
    uids = {name: node.client.get(name).metadata.uid for name in ("ran", "again", "stale", "ended")}
    reboots.switch_off(node, stale={uids["stale"]})
    node.start()
    for name in ("ran", "stale"):
        found = node.wait(name, lambda found: found.status.termination is not None)
        assert (found.status.termination.reason, found.status.phase) == ("NodeRebooted", "Failed"), name
    again = node.wait("again", lambda found: found.status.termination is not None and standalone.ready_reason(found) == "Running")
    assert again.status.termination.reason == "NodeRebooted"
    assert node.client.get("ended").status.termination.exit_code == 4
    for name in uids:
        node.remove(name)


def _read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()
