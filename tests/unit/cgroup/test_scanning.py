"""Control files as bytes: a number is found by its name at the beginning of a line, and no other."""

import contextlib
import os

import pytest

from skerry_node.cgroup import group, hierarchy, scanning


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param(b"max 3\noom 4\n", b"max ", 3, id="the first line"),
        pytest.param(b"max 3\noom_kill 4\n", b"oom_kill ", 4, id="the last line"),
        pytest.param(b"oom_kill 4", b"oom_kill ", 4, id="no newline at the end"),
        pytest.param(b"total_inactive_file 1\ninactive_file 2\n", b"inactive_file ", 2, id="a longer name that ends so is another"),
        pytest.param(b"low 0\n", b"max ", None, id="not there"),
        pytest.param(b"", b"max ", None, id="empty"),
    ],
)
def test_a_count_is_found_by_its_name(text, name, expected):
    assert scanning.find_count(text, name) == expected


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param(
            b"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:1 rbytes=5 wbytes=0 rios=3 wios=0\n", b" rbytes=", 15, id="version 2"
        ),
        pytest.param(b"8:0 Read 10\n8:0 Write 20\n7:1 Read 7\nTotal 37\n", b" Read ", 17, id="version 1"),
        pytest.param(b"7:0\n", b" rbytes=", 0, id="a device's number alone"),
        pytest.param(b"", b" rbytes=", 0, id="no device"),
    ],
)
def test_devices_are_summed(text, name, expected):
    assert scanning.sum_words(text, name) == expected


def make_group(root, uid, usage="5"):
    """The files of version 2 that cannot be missing."""
    place = root / uid
    place.mkdir()
    files = {
        "cpu.stat": "usage_usec 1\n", "memory.current": usage, "memory.stat": "file 1\n", "memory.events": "max 0\noom_kill 0\n", "pids.current": "1",
        "pids.events": "max 0\n",
    }  # fmt: skip
    for name, text in files.items():
        (place / name).write_text(text, encoding="ascii")


@pytest.fixture
def scanner(tmp_path, request):
    hierarchies = hierarchy.Hierarchies(2, tuple((name, str(tmp_path)) for name in ("cpu", "memory", "pids")))
    (tmp_path / "sandboxes").mkdir()
    made = scanning.Scanner(group.Parent(hierarchies, ""), keep=request.param)
    yield made
    made.close()


def open_below(root):
    """Files below *root* that this process has open, without directories."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith(f"{root}/") and os.path.isfile(target):
                found.append(target)
    return found


@pytest.mark.parametrize(("scanner", "expected"), [(100, 12), (8, 8), (0, 0)], indirect=["scanner"])
def test_files_stay_open_up_to_a_number_and_no_longer_than_their_sandbox(scanner, expected, tmp_path):
    """Every reading is of now, whether its file stayed open or not."""
    root = tmp_path / "sandboxes"
    for uid in ("a", "b"):
        make_group(root, uid)
    for usage in ("5", "17"):
        for uid in ("a", "b"):
            (root / uid / "memory.current").write_text(usage, encoding="ascii")
            assert scanner.read(uid).memory_bytes == int(usage)
        assert len(open_below(root)) == expected
    scanner.forget_others({"b"})
    assert not [path for path in open_below(root) if path.startswith(f"{root}/a/")]
    scanner.forget_others(())
    assert open_below(root) == []


@pytest.mark.parametrize("scanner", [100], indirect=True)
def test_a_group_that_vanished_has_no_counters(scanner, tmp_path):
    assert scanner.read("gone") is None
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("scanner", [100, 0], indirect=True)
def test_who_does_nothing_is_read_whole_now_and_then(scanner, tmp_path):
    """What the kernel does to its memory is seen within a few readings; once it has used CPU, everything is of that moment."""
    root = tmp_path / "sandboxes"
    make_group(root, "a", usage="100")
    assert scanner.read("a").working_set_bytes == 100
    (root / "a" / "memory.stat").write_text("file 1\ninactive_file 40\n", encoding="ascii")
    readings = [scanner.read("a") for _ in range(20)]
    assert readings[-1].working_set_bytes == 60
    assert len({id(each) for each in readings}) < 5
    (root / "a" / "pids.current").write_text("9", encoding="ascii")
    (root / "a" / "cpu.stat").write_text("usage_usec 2\n", encoding="ascii")
    assert scanner.read("a").pids == 9


def test_a_group_for_devices_is_looked_for_now_and_then(tmp_path, monkeypatch):
    """Most sandboxes of version 1 have none, and looking is dear; one that comes later is seen within a few readings, also of who is busy."""
    hierarchies = hierarchy.Hierarchies(1, tuple((name, str(tmp_path / name)) for name in ("cpu", "cpuacct", "memory", "pids", "blkio")))
    for name in ("cpu", "cpuacct", "memory", "pids", "blkio"):
        (tmp_path / name / "sandboxes").mkdir(parents=True)
    files = {
        "cpu/cpu.stat": "nr_periods 0\n", "cpuacct/cpuacct.usage": "1", "memory/memory.usage_in_bytes": "5", "memory/memory.stat": "total_cache 1\n",
        "memory/memory.max_usage_in_bytes": "5", "memory/memory.failcnt": "0", "memory/memory.oom_control": "oom_kill 0\n", "pids/pids.current": "1",
        "pids/pids.events": "max 0\n",
    }  # fmt: skip

    def write(path, text):
        place = tmp_path / path.partition("/")[0] / "sandboxes/a"
        place.mkdir(exist_ok=True)
        (place / path.partition("/")[2]).write_text(text, encoding="ascii")

    for path, text in files.items():
        write(path, text)
    asked = []
    open_at = scanning.rereading.open_at
    monkeypatch.setattr(scanning.rereading, "open_at", lambda fd, path: asked.append(path) or open_at(fd, path))
    scanner = scanning.Scanner(group.Parent(hierarchies, ""), keep=100)
    try:
        readings = [scanner.read("a").read_bytes for _ in range(24)]
        assert readings == [None] * 24
        assert 1 <= sum(b"blkio" in path for path in asked) <= 2 * 4
        write("blkio/blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:0 Write 0\n")
        write("blkio/blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 0\n")
        for number in range(9):
            write("cpuacct/cpuacct.usage", str(number + 2))
            found = scanner.read("a")
        assert (found.read_bytes, found.reads) == (4096, 1)
    finally:
        scanner.close()
