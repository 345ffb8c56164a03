"""Limits of disk and devices on the real kernel: what a hog gets, on which device, and what a patch changes while it lives."""

from __future__ import annotations

import os

import pytest

from tests.harness import standalone
from tests.kernel.test_resize import patch

MEBIBYTE = 1 << 20
FILL = "dd if=/dev/zero of=/fill bs=64k 2>&1 | grep -o 'No space left'; wc -c < /fill"
WAIT = "trap 'go=1' USR1; while [ -z \"$go\" ]; do sleep 0.1; done; go="
DATA = {"volumes": [{"name": "data", "emptyDir": {}}], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """One node for all of these, which leave nothing on it but the image."""
    directory = tmp_path_factory.mktemp("limits")
    with standalone.running_busybox(str(directory), tag="li", flags=("--shells=1",)) as agent:
        yield agent


def limited(**limits: object):
    return {"resources": {"limits": limits}, "network": {"mode": "None"}}


@pytest.mark.parametrize(
    ("script", "spec"),
    [
        pytest.param("dd if=/dev/zero of=/fill bs=64k", {}, id="blocks of the root"),
        pytest.param("dd if=/dev/zero of=/data/fill bs=64k", DATA, id="a volume without a size counts"),
        pytest.param("i=0; while : > /$i; do i=$((i+1)); done; exit 1", {}, id="files"),
    ],
)
def test_a_disk_that_is_full_ends_it(node, script, spec):
    """Whoever fills it is told so, and the end says it; nothing of it stays."""
    with node.sandbox("d", "sh", "-c", script, **limited(disk="16Mi"), **spec):
        end = node.wait_end("d")
        assert (end.reason, end.exit_code) == ("DiskFull", 1), end
    assert not [name for name in os.listdir(node.place.state_dir + "/volumes") if not name.startswith(".")]


def test_a_disk_holds_what_it_says_and_changes_live(node):
    """Within a sixteenth of the limit; twice as much after a patch, in the same process; less than is used is refused to new writes only."""
    script = f"{FILL}; {WAIT}; rm /fill; {FILL}; {WAIT}; echo x > /more; wc -c < /fill"
    with node.sandbox("d", "sh", "-c", script, **limited(disk="16Mi")):
        first = said(node, "d", 2)
        patch(node, "d", disk="32Mi")
        standalone.until(lambda: disk_bytes(node, "d") == 32 * MEBIBYTE)
        node.client.kill("d", signal="USR1")
        second = said(node, "d", 4)
        patch(node, "d", disk="8Mi")
        standalone.until(lambda: disk_bytes(node, "d") == 8 * MEBIBYTE)
        node.client.kill("d", signal="USR1")
        last = said(node, "d", 5)
    assert first[0] == second[2] == "No space left"
    assert 15 * MEBIBYTE <= int(first[1]) <= 16 * MEBIBYTE
    assert 30 * MEBIBYTE <= int(second[3]) <= 32 * MEBIBYTE
    assert last[4] == second[3]


def test_files_stay_over_stop_and_start_and_a_new_agent(node):
    """The disk is the sandbox's as long as its object is there."""
    script = "echo x >> /kept; wc -l < /kept; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
    with node.sandbox("k", "sh", "-c", script, **limited(disk="16Mi")):
        standalone.until(lambda: node.output("k") == "1\n")
        node.client.stop("k")
        node.wait("k", lambda each: each.status.phase == "Stopped")
        node.stop()
        node.start()
        node.wait("k", lambda each: each.status.phase == "Stopped")
        node.client.start("k")
        standalone.until(lambda: node.output("k") == "1\n2\n")
        assert disk_bytes(node, "k") == 16 * MEBIBYTE


def test_what_has_no_disk_of_its_own_says_so(node):
    """A limit that comes too late is refused with a sentence, and the program goes on."""
    with node.sandbox("n", "sleep", "1000", **limited(pids=20)):
        patch(node, "n", disk="16Mi")
        found = node.wait("n", lambda each: "limits.disk" in ready_message(each))
        assert "create it anew" in ready_message(found)
        assert found.status.phase == "Running"
        patch(node, "n", disk=None)
        node.wait("n", lambda each: ready_message(each) == "")


@pytest.mark.parametrize("disk", [None, "64Mi"], ids=["on the disk that all share", "on its own"])
def test_devices_are_limited_where_the_files_are(node, disk):
    """What the program moves is counted on the device that is limited; half, double and none come live."""
    script = f"dd if=/dev/zero of=/f bs=64k count=16 oflag=direct 2>/dev/null; echo wrote; {WAIT}; sleep 1000"
    limits = {"io": {"readBytesPerSecond": "16Mi", "writeBytesPerSecond": "8Mi"}, **({"disk": disk} if disk else {})}
    with node.sandbox("i", "sh", "-c", script, **limited(**limits)) as found:
        said(node, "i", 1)
        device = os.stat(os.path.join(node.place.state_dir, "scratch", found.metadata.uid)).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        assert rates(node, "i", name) == (16 * MEBIBYTE, 8 * MEBIBYTE)
        assert written(node, "i", name) >= MEBIBYTE
        assert node.client.usage("i")["io"]["writeBytes"] >= MEBIBYTE
        patch(node, "i", io={"readBytesPerSecond": "8Mi", "writeBytesPerSecond": "16Mi"})
        standalone.until(lambda: rates(node, "i", name) == (8 * MEBIBYTE, 16 * MEBIBYTE))
        patch(node, "i", io=None)
        standalone.until(lambda: rates(node, "i", name) == (None, None))


def test_a_limit_of_devices_that_comes_late_takes_who_runs(node):
    """On version 1 there was no group for it: who runs, and what it starts later, is in it afterwards."""
    script = f"sleep 1000 & echo up; {WAIT}; dd if=/dev/zero of=/f bs=64k count=16 oflag=direct 2>/dev/null; echo wrote; {WAIT}"
    with node.sandbox("j", "sh", "-c", script, **limited(pids=20)) as found:
        said(node, "j", 1)
        device = os.stat(os.path.join(node.place.state_dir, "scratch", found.metadata.uid)).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        patch(node, "j", io={"writeBytesPerSecond": "8Mi"})
        standalone.until(lambda: rates(node, "j", name) == (None, 8 * MEBIBYTE))
        node.client.kill("j", signal="USR1")
        said(node, "j", 2)
        assert written(node, "j", name) >= MEBIBYTE


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param({"memory": "24Mi"}, "OOMKilled", id="it counts as memory"),
        pytest.param({}, "Error", id="it has a size of its own"),
    ],
)
def test_shared_memory_is_held(node, limits, reason):
    """Files in /dev/shm are memory, and there is an end of them."""
    with node.sandbox("m", "sh", "-c", "exec dd if=/dev/zero of=/dev/shm/f bs=64k count=3000", **limited(**limits)):
        assert node.wait_end("m").reason == reason


def said(node, name, lines):
    """The lines of its output, once there are that many."""
    standalone.until(lambda: node.output(name).count("\n") >= lines)
    return node.output(name).splitlines()


def ready_message(found):
    return next((each.message for each in found.status.conditions if each.type == "Ready"), "")


def disk_bytes(node, name):
    """What the filesystem with the writable layer has for files, as its program sees it."""
    uid = node.client.get(name).metadata.uid
    path = os.path.join(node.place.state_dir, "scratch", uid)
    device = os.stat(path).st_dev
    with open(f"/sys/fs/ext4/loop{os.minor(device)}/reserved_clusters", encoding="ascii") as file:
        return (os.statvfs(path).f_blocks - int(file.read())) * 4096


def rates(node, name, device):
    """Bytes a second read and written, of the group and *device*; None where there is no limit."""
    found = {}
    for controller, file in (("r", "blkio.throttle.read_bps_device"), ("w", "blkio.throttle.write_bps_device"), ("2", "io.max")):
        for line in read(node, name, file):
            if line.split()[0] == device:
                found.update(dict(word.split("=") for word in line.split()[1:]) if controller == "2" else {f"{controller}bps": line.split()[1]})
    return tuple(None if found.get(key, "max") == "max" else int(found[key]) for key in ("rbps", "wbps"))


def written(node, name, device):
    """Bytes that the group wrote to *device*."""
    for line in read(node, name, "blkio.throttle.io_service_bytes"):
        if line.split()[:2] == [device, "Write"]:
            return int(line.split()[2])
    for line in read(node, name, "io.stat"):
        if line.split()[0] == device:
            return int(dict(word.split("=") for word in line.split()[1:])["wbytes"])
    return 0


def read(node, name, file):
    for directory in node.inspect(name)["cgroups"]:
        path = os.path.join(directory, file)
        if os.path.exists(path):
            with open(path, encoding="ascii") as opened:
                return opened.read().splitlines()
    return []
