"""Version 2's files, on a tree of plain files that has what the kernel would make. The real ones: tests/kernel/test_cgroup.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry_node.cgroup import group, hierarchy, stats
from skerry_node.model import Limits

FILES = {
    "cpu.max": "max 100000\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.oom.group": "0\n",
    "pids.max": "max\n",
    "cgroup.procs": "",
    "cgroup.kill": "",
    "cgroup.freeze": "0\n",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 1\nnr_periods 4\nnr_throttled 2\nthrottled_usec 250000\n",
    "memory.current": "9000\n",
    "memory.peak": "12000\n",
    "memory.stat": "anon 1\nfile 6000\ninactive_file 4000\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n",
    "pids.current": "3\n",
    "pids.events": "max 7\n",
}


@pytest.fixture
def found(tmp_path: Path) -> group.Group:
    """A sandbox's group as the kernel fills it."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    return group.Group(dict.fromkeys(hierarchy.CONTROLLERS, str(tmp_path)), 2)


def _text(found: group.Group, name: str) -> str:
    return Path(found.paths["cpu"], name).read_text(encoding="ascii").rstrip("\n")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(), {"cpu.max": "max 100000", "memory.max": "max", "pids.max": "max"}, id="no limits"),
        pytest.param(Limits(cpu_millicores=250), {"cpu.max": "25000 100000"}, id="a quarter of a CPU"),
        pytest.param(Limits(cpu_millicores=1), {"cpu.max": "1000 100000"}, id="less CPU than the kernel can give out"),
        pytest.param(Limits(memory_bytes=65_536), {"memory.max": "65536", "memory.swap.max": "0"}, id="memory, and no swap"),
        pytest.param(Limits(pids=10), {"pids.max": "10"}, id="processes"),
    ],
)
def test_limits_are_written_in_the_kernels_words(found: group.Group, limits: Limits, expected: dict[str, str]):
    """Out of memory ends the whole sandbox, never a half of it."""
    for name in ("cpu.max", "memory.max", "pids.max", "memory.swap.max"):
        Path(found.paths["cpu"], name).write_text("", encoding="ascii")
    found.ensure(limits)
    assert {name: _text(found, name) for name in expected} == expected
    assert _text(found, "memory.oom.group")[0] == "1"


def test_counters_are_read_in_seconds_and_bytes(found: group.Group):
    """Working set is what is in use less file pages that nobody looked at lately, as the kubelet counts."""
    assert stats.read_stats(found) == stats.Stats(
        cpu_seconds=1.5,
        throttled_seconds=0.25,
        memory_bytes=9000,
        memory_working_set_bytes=5000,
        memory_peak_bytes=12_000,
        oom_kills=1,
        pids=3,
        pids_refused=7,
    )


def test_a_kernel_that_keeps_no_peak_says_none(found: group.Group):
    """memory.peak came with 5.19."""
    Path(found.paths["memory"], "memory.peak").unlink()
    assert stats.read_stats(found).memory_peak_bytes is None


def test_kill_is_one_write(found: group.Group):
    """The kernel kills the whole group, forks under way too."""
    found.kill()
    assert _text(found, "cgroup.kill") == "1"


def test_a_vanished_group_is_told_from_one_without_limits(tmp_path: Path):
    """None stands for missing; killing and removing what is not there is fine."""
    gone = group.Group(dict.fromkeys(hierarchy.CONTROLLERS, str(tmp_path / "gone")), 2)
    assert gone.read_limits() is None
    assert not gone.exists()
    gone.kill()
    gone.remove()
    with pytest.raises(FileNotFoundError):
        stats.read_stats(gone)


def test_controllers_are_handed_down_where_they_are_missing(tmp_path: Path):
    """A group that hands them down already is not written: where processes live in it the kernel would refuse."""
    hierarchies = hierarchy.Hierarchies(version=2, mounts=tuple((name, str(tmp_path)) for name in hierarchy.CONTROLLERS))
    for path, text in (("", "cpu memory pids\n"), ("top", "memory\n"), ("top/sandboxes", "\n")):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.subtree_control").write_text(text, encoding="ascii")
    hierarchy.ensure_parent(hierarchies, "top")
    written = [(tmp_path / path / "cgroup.subtree_control").read_text(encoding="ascii") for path in ("", "top", "top/sandboxes")]
    assert written == ["cpu memory pids\n", "+cpu +pids", "+cpu +memory +pids"]
