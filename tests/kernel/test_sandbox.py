"""Sandboxes on the real kernel, through the agent's own door: what they are made of, what holds them, how they end."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from tests.harness import images, standalone

NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user", "cgroup")
LOOP = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("node"))


@pytest.fixture
def node(directory, ledger, tmp_path):
    """A node with busybox on it; the ledger is closed after it is purged."""
    layer = {"etc/nowhere": "/does/not/exist", "data/lower": b"below\n", "opt/hidden": b"x"}
    layout = images.busybox_layout(str(tmp_path / "layout"), layers=[layer, {"opt/.wh.hidden": b""}], config={"User": "alice", "WorkingDir": "/data"})
    plain = images.busybox_layout(str(tmp_path / "plain"))
    with standalone.running(str(tmp_path), tag="k0") as agent:
        agent.client.import_image(plain)
        agent.client.import_image(layout, reference="configured:1")
        yield agent


def test_a_sandbox_is_a_process_of_its_own_world(node):
    """Namespaces, ids, privileges, mounts and network are its own; host root is in no map."""
    node.run("a", "sh", "-c", LOOP, hostname="box")
    node.wait("a", lambda found: standalone.ready_reason(found) == "Running")
    seen = node.inspect("a")
    pid = seen["pid"]
    assert all(os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES)
    status = _status(pid)
    inside, base, count = map(int, _read(f"/proc/{pid}/uid_map").split())
    assert (inside, count) == (0, 65_536)
    assert base >= 65_536
    assert status["NSpid"].split()[1] == "1"
    assert status["Uid"].split() == [str(base)] * 4
    assert (status["CapInh"], status["CapAmb"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")
    assert status["CapBnd"] == status["CapEff"]
    assert int(status["CapEff"], 16) & 1 << 21 == 0, "no CAP_SYS_ADMIN"
    node.remove("a")


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        pytest.param("id -u; hostname", "0\nbox\n", id="all is well"),
        pytest.param("ls -l /proc/self/fd | grep -c ' [012] ->'", "3\n", id="three fds"),
        pytest.param("ls /proc/self/fd | wc -l", "4\n", id="no fd of ours: ls has its own directory open"),
        pytest.param("cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l", "0\n0\n", id="masked"),
        pytest.param("echo 1 > /proc/sysrq-trigger; echo x > /proc/sys/kernel/core_pattern; echo $?", "1\n", id="read-only proc"),
        pytest.param("mknod /tmp/m c 1 1 2>/dev/null; echo $?", "1\n", id="no devices"),
        pytest.param("mount -t tmpfs x /tmp || echo refused", "refused\n", id="no mounts"),
        pytest.param("unshare -U true 2>/dev/null; echo $?", "1\n", id="no nested user namespaces"),
        pytest.param("ls /dev | sort | tr '\\n' ' '", "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ", id="dev"),
        pytest.param("echo x > /dev/shm/x && cat /dev/shm/x", "x\n", id="shm"),
        pytest.param("touch /sys/x 2>/dev/null; echo $?", "1\n", id="sysfs read-only"),
        pytest.param("cat /etc/hostname; grep -c box /etc/hosts", "box\n1\n", id="the files of /etc"),
        pytest.param("ls /sys/fs/cgroup | wc -l", "0\n", id="no cgroup mount"),
        pytest.param("ip route | head -1 | cut -d' ' -f1,2", "default via\n", id="a way out"),
    ],
)
def test_what_it_sees(shared, probe, expected):
    """Probes from inside."""
    with shared.sandbox("probe", "sh", "-c", f"({probe}) 2>/dev/null", hostname="box"):
        shared.wait_end("probe")
        assert shared.output("probe") == expected


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One node for the probes, which leave nothing on it."""
    directory = tmp_path_factory.mktemp("shared")
    with standalone.running_busybox(str(directory), tag="k1", flags=("--shells=0",)) as agent:
        yield agent


def test_limits_hold(node):
    """A hog ends OOMKilled, a neighbour does not; pids are EAGAIN. test_resize.py changes them live."""
    node.run("neighbour", "sh", "-c", LOOP)
    node.run("hog", "sh", "-c", "tail /dev/zero", resources={"limits": {"memory": "32Mi"}}, network={"mode": "None"})
    end = node.wait_end("hog")
    assert (end.reason, end.exit_code) == ("OOMKilled", 137)
    assert "33554432" in end.message
    assert end.peak_memory_bytes is None or 20 << 20 < end.peak_memory_bytes <= 32 << 20
    node.run("bomb", "sh", "-c", "for i in $(seq 20); do sleep 5 & done 2>&1 | head -1", resources={"limits": {"pids": 8}})
    node.wait_end("bomb")
    assert "Resource temporarily unavailable" in node.output("bomb"), "EAGAIN, in the words of strerror(3)"
    assert standalone.ready_reason(node.client.get("neighbour")) == "Running"
    for name in ("neighbour", "hog", "bomb"):
        node.remove(name)


def test_layers_are_never_written(node):
    """A deleted lower file is a 0:0 device in upper; whiteouts hide; the sealed layers stay as they were."""
    node.run("w", "sh", "-c", "rm /etc/lower-file; ls /opt; echo new > /root/made; " + LOOP, user="0", image="configured:1")
    seen = node.inspect("w")
    before = [_digest(path) for path in seen["lower"]]
    upper = os.path.join(seen["upper"], "etc/lower-file")
    standalone.until(lambda: os.path.lexists(upper))
    found = os.stat(upper)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (0, 0)
    assert [_digest(path) for path in seen["lower"]] == before
    assert node.output("w") == ""
    node.remove("w")


def test_stop_keeps_files_and_start_goes_on(node):
    """Stopped and started, it has its files and its address; each end is told truthfully."""
    node.run("s", "sh", "-c", "echo again >> /root/count; wc -l < /root/count; " + LOOP)
    address = node.client.get("s").status.address
    node.client.stop("s")
    stopped = node.wait("s", lambda found: standalone.ready_reason(found) == "Stopped")
    assert stopped.status.termination.reason == "Stopped"
    node.client.start("s")
    node.wait("s", lambda found: standalone.ready_reason(found) == "Running")
    standalone.until(lambda: node.output("s") == "1\n2\n")
    assert node.client.get("s").status.address == address
    node.remove("s")


def test_a_first_process_that_hears_no_signal_is_not_waited_for(node):
    """A program without a handler for TERM never gets it as PID 1: stopping takes no grace."""
    node.run("deaf", "sleep", "1000", terminationGracePeriodSeconds=3600)
    began = time.monotonic()
    node.remove("deaf")
    assert time.monotonic() - began < 600


@pytest.mark.host("the plan's times do not depend on the kernel")
def test_restart_policy_restarts_at_once_then_holds_back(node):
    """OnFailure: the first restart is immediate, the second waits."""
    node.run("r", "sh", "-c", "exit 3", restartPolicy="OnFailure")
    held = node.wait("r", lambda found: standalone.ready_reason(found) == "BackOff" and found.status.restarts == 2)
    assert held.status.termination.exit_code == 3
    node.remove("r")


@pytest.mark.host("the plan's times do not depend on the kernel")
def test_active_seconds_end_it(node):
    """ttl.activeSeconds ends as Expired, and no policy restarts that."""
    node.run("t", "sh", "-c", LOOP, ttl={"activeSeconds": 1}, restartPolicy="Always")
    assert node.wait_end("t").reason == "Expired"
    node.remove("t")


@pytest.mark.host("the plan's times do not depend on the kernel")
def test_ttl_after_finish_removes_it(node):
    """ttl.secondsAfterFinished: standalone, the agent deletes the object."""
    node.create("f", "true", ttl={"secondsAfterFinished": 0})
    standalone.until(lambda: not [each for each in node.client.list() if each.metadata.name == "f"])


@pytest.mark.host("what a config means does not depend on the kernel")
def test_the_image_config_is_honoured(node):
    """User, WorkingDir and CMD of the image, and numbers and names in the manifest."""
    node.run("c", "sh", "-c", "id -u; id -G; pwd; cat lower", image="configured:1")
    node.wait_end("c")
    assert node.output("c") == "1000\n1000 10\n/data\nbelow\n"
    node.run("d", "sh", "-c", "id -u; id -g; grep Cap /proc/self/status | cut -f2 | sort -u", user="7:8")
    node.wait_end("d")
    assert node.output("d").splitlines()[:3] == ["7", "8", "0000000000000000"]
    node.remove("c")
    node.remove("d")


@pytest.mark.host("the words of a refusal do not depend on the kernel")
@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        pytest.param({"command": ["nosuch"]}, "spec.command", "CommandNotFound", id="no such command"),
        pytest.param({"command": ["/etc/passwd"]}, "spec.command", "CannotRunCommand", id="not executable"),
        pytest.param({"user": "bob"}, "spec.user", "InvalidUser", id="no such user"),
        pytest.param({"user": "70000"}, "spec.user", "InvalidUser", id="a user beyond the range"),
        pytest.param({"user": "0:nogroup-here"}, "spec.user", "InvalidUser", id="no such group"),
        pytest.param({"workingDir": "/etc/passwd"}, "spec.workingDir", "InvalidWorkingDir", id="a file as directory"),
        pytest.param({"workingDir": "/proc/self/fd/3"}, "spec.workingDir", "InvalidWorkingDir", id="an fd as directory"),
        pytest.param({"network": {"mode": "Host"}}, "spec.network.mode", "HostNetworkRefused", id="host network"),
        pytest.param({"security": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "spec.security.capabilities", "InvalidCapability", id="capability"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing(shared, spec, field, reason):
    """A condition with a reason and a message that names the field; no cgroup, no writable layer."""
    with shared.sandbox("bad", *spec.pop("command", ["true"]), **spec):
        found = shared.wait("bad", lambda each: each.status.phase == "Failed")
        ready = next(each for each in found.status.conditions if each.type == "Ready")
        assert (ready.reason, found.status.termination.reason) == (reason, "StartFailed")
        assert field in ready.message
        seen = shared.inspect("bad")
        assert not os.path.exists(seen["upper"])
        assert not any(os.path.exists(path) for path in seen["cgroups"])


def test_what_ended_stays_as_it_was_said(node):
    """By the next agent, and after a reboot, when status alone remembers: no reason changes, nothing starts again."""
    node.run("bad", "true", user="bob")
    node.run("done", "sh", "-c", "exit 3")
    node.wait_end("done")
    said = {name: node.client.get(name).status for name in ("bad", "done")}
    assert standalone.ready_reason(node.client.get("bad")) == "InvalidUser"
    for is_reboot in (False, True):
        node.kill()
        if is_reboot:
            node.kill_keeper()
            shutil.rmtree(os.path.join(node.place.run_dir, "sandboxes"))
        node.start()
        node.create("marker", "true")  # once it has ended, the others have been looked at too
        node.wait_end("marker")
        node.remove("marker")
        assert {name: node.client.get(name).status for name in said} == said
    for name in said:
        node.remove(name)


@pytest.mark.host("records of images do not depend on the kernel")
def test_an_unknown_image_is_waited_for(node, tmp_path):
    """ImageNotFound where it may not be pulled, and a start as soon as it is imported."""
    node.run("i", "sh", "-c", LOOP, image="later:1", imagePullPolicy="Never")
    assert standalone.ready_reason(node.client.get("i")) == "ImageNotFound"
    node.client.import_image(images.busybox_layout(str(tmp_path / "later"), name="later:1"))
    node.wait("i", lambda found: standalone.ready_reason(found) == "Running")
    node.remove("i")


def test_agent_and_keeper_may_die(node):
    """Kill -9 of both, one by one and together: the sandbox goes on, no line is lost or doubled, and its exit code is told."""
    script = "trap 'end=1' USR1; i=0; while [ -z \"$end\" ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 9"
    node.run("x", "sh", "-c", script)
    pid = node.inspect("x")["pid"]
    node.kill()
    node.start()
    node.kill_keeper()
    time.sleep(0.3)
    node.kill()
    node.kill_keeper()
    node.start()
    node.wait("x", lambda found: found.status.phase == "Running")
    standalone.until(lambda: node.inspect("x")["pid"] is not None)  # the agent has looked again
    assert node.inspect("x")["pid"] == pid
    os.kill(pid, signal.SIGUSR1)
    end = node.wait_end("x")
    lines = node.output("x").splitlines()
    assert lines == [str(number) for number in range(len(lines))]
    assert len(lines) > 10
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if kernel >= (6, 15):
        assert (end.reason, end.exit_code) == ("Error", 9)
    else:
        assert end.reason == "KeeperLost", "before 6.15 nobody can read the status of a dead keeper's child"
    node.remove("x")


def test_orphans_are_reaped_and_look_alikes_are_not(node):
    """What no list wants goes after the first complete list; what is not ours stays."""
    node.run("o", "sh", "-c", LOOP)
    pid = node.inspect("o")["pid"]
    node.kill()
    for name in os.listdir(node.manifests):
        os.unlink(os.path.join(node.manifests, name))
    status = os.path.join(node.place.state_dir, "status")
    for root, _, names in os.walk(status, topdown=False):
        for name in names:
            os.unlink(os.path.join(root, name))
    stranger = os.path.join(node.place.state_dir, "stranger")
    os.mkdir(stranger)
    node.start()
    standalone.until(lambda: not os.path.exists(f"/proc/{pid}"))
    standalone.until(lambda: os.listdir(os.path.join(node.place.run_dir, "sandboxes")) == [])
    assert os.path.isdir(stranger)


def _status(pid):
    return {key: value.strip() for key, value in (line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":" in line)}


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _bytes(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _digest(path):
    return hash(_bytes(path))
