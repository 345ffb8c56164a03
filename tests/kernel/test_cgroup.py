"""Control groups on the kernel that is here, whichever version it has."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from skerry_node.cgroup import group, hierarchy, scanning, stats
from skerry_node.model import Limits
from tests.harness import claims

UID = "00000000-0000-0000-0000-0000000000cc"
MIB = 1 << 20
FORKER = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
HOG = "kept = [b'x' * (1 << 20)]\nwhile True: kept.append(kept[0] + b'y')\n"


@pytest.fixture
def parent() -> Iterator[group.Parent]:
    hierarchies, name = hierarchy.detect(), f"skerry-{claims.claim_mark('cg')}"
    hierarchy.ensure_parent(hierarchies, name)
    yield group.Parent(hierarchies, name)
    hierarchy.remove_parent(hierarchies, name)


@pytest.fixture
def found(parent: group.Parent) -> Iterator[group.Group]:
    made = parent.open(UID)
    made.ensure(Limits(pids=64))
    yield made
    made.kill()
    _wait(lambda: _is_removed(made))


def _is_removed(made: group.Group) -> bool:
    try:
        made.remove()
    except group.GroupBusy:
        return False
    return True


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _start(made: group.Group, code: str) -> subprocess.Popen[str]:
    """A process that joins, says so, waits for a line and runs *code*."""
    joins = "".join(f"open({path + '/cgroup.procs'!r}, 'w').write('0')\n" for name, path in made.paths.items() if name != hierarchy.BLKIO)
    program = f"{joins}print('in', flush=True)\ninput()\n{code}"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "in\n"
    process.stdin.write("\n")
    process.stdin.flush()
    return process


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(cpu_millicores=500, memory_bytes=64 * MIB, pids=10), id="all"),
        pytest.param(Limits(), id="none"),
        pytest.param(Limits(memory_bytes=8 * MIB), id="memory only"),
        pytest.param(Limits(cpu_millicores=10), id="the least CPU"),
    ],
)
def test_limits_are_read_as_they_were_written(parent: group.Parent, limits: Limits):
    """Same input twice: nothing is left to do the second time."""
    made = parent.open(UID)
    made.ensure(limits)
    made.ensure(limits)
    assert made.read_limits() == limits
    made.remove()


def test_limits_change_live_in_every_direction(found: group.Group):
    """Up, down, off and on: memory with and without swap may never cross on the way."""
    for size in (128 * MIB, 32 * MIB, None, 64 * MIB, 1024 * MIB, 4 * MIB):
        found.write_limits(Limits(memory_bytes=size))
        assert found.read_limits() == Limits(memory_bytes=size)


def test_memory_is_held_in_whole_pages(found: group.Group):
    """What wants to compare limits rounds down first; anything else would find work to do for ever."""
    found.write_limits(Limits(memory_bytes=100_000_000))
    assert found.read_limits() == Limits(memory_bytes=100_000_000 // mmap.PAGESIZE * mmap.PAGESIZE)


def test_a_group_that_vanished_is_seen_and_named(parent: group.Parent):
    """An error of that sandbox alone."""
    made = parent.open(UID)
    made.ensure(Limits())
    os.rmdir(made.paths["pids"])
    assert made.read_limits() is None
    with pytest.raises(FileNotFoundError):
        made.write_limits(Limits())
    made.kill()
    made.remove()
    made.remove()
    assert parent.list() == []


def test_a_fork_bomb_is_bounded_and_killed_whole(found: group.Group):
    """64 processes that fork as fast as they can: counted, refused, and none left after one kill."""
    bomb = _start(found, FORKER)
    _wait(lambda: stats.read_stats(found).pids_refused > 0)
    assert stats.read_stats(found).pids <= 64
    found.kill()
    bomb.communicate()
    _wait(lambda: stats.read_stats(found).pids == 0)
    assert found.read_limits() == Limits(pids=64)


def test_a_frozen_group_dies_too(found: group.Group):
    """Held still, it uses no CPU; killed, it goes."""
    if found.version == 1 and "freezer" not in found.paths:
        pytest.skip("no freezer here")
    process = _start(found, "while True: pass\n")
    found.freeze()
    time.sleep(0.05)
    before = stats.read_stats(found).cpu_seconds
    time.sleep(0.1)
    assert stats.read_stats(found).cpu_seconds == pytest.approx(before, abs=0.01)
    found.thaw()
    found.freeze()
    found.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_busy_group_says_so(found: group.Group):
    """Transient, with a type of its own."""
    process = _start(found, "input()\n")
    with pytest.raises(group.GroupBusy):
        found.remove()
    found.kill()
    process.communicate()


def test_memory_beyond_the_limit_is_refused_and_counted(found: group.Group):
    """Swap gives no way out: the hog ends by the kernel's hand, and the counters tell why."""
    found.write_limits(Limits(memory_bytes=32 * MIB, pids=64))
    hog = _start(found, HOG)
    hog.communicate()
    counted = stats.read_stats(found)
    assert hog.returncode == -signal.SIGKILL
    assert counted.oom_kills >= 1
    assert counted.memory_peak_bytes is None or 16 * MIB < counted.memory_peak_bytes <= 32 * MIB


def test_cpu_time_is_counted_and_throttled(found: group.Group):
    """A tenth of a CPU is what a busy loop gets."""
    found.write_limits(Limits(cpu_millicores=100))
    process = _start(found, "while True: pass\n")
    _wait(lambda: stats.read_stats(found).throttled_seconds > 0)
    assert stats.read_stats(found).cpu_seconds > 0
    found.kill()
    process.communicate()


def test_other_peoples_groups_stay(parent: group.Parent):
    """A group beside ours below the parent is neither listed nor removed."""
    hierarchies = parent.hierarchies
    name = os.path.basename(os.path.dirname(parent.directories[0]))
    theirs = os.path.join(hierarchies.root("pids"), name, "theirs")
    os.mkdir(theirs)
    assert parent.list() == []
    hierarchy.remove_parent(hierarchies, name)
    assert os.path.isdir(theirs)
    os.rmdir(theirs)


def test_what_joins_the_system_group_is_counted_nowhere_else(parent: group.Parent):
    """The keeper's place: out of the group in which the agent was started."""
    name = os.path.basename(os.path.dirname(parent.directories[0]))
    with subprocess.Popen(["sleep", "60"]) as process:
        hierarchy.join_system(parent.hierarchies, name, process.pid)
        with open(f"/proc/{process.pid}/cgroup", encoding="ascii") as file:
            assert file.read().count(f"/{name}/system") == len(parent.hierarchies.roots)
        process.kill()


def test_a_scanner_reads_the_group_that_is_there_now(parent: group.Parent) -> None:
    """It keeps files open: one that was removed, and then made again under its name, is told from the one before."""
    scanner, made = scanning.Scanner(parent, keep=100), parent.open(UID)
    try:
        for limit in (10, 20):
            made.ensure(Limits(pids=limit))
            counted = scanner.read(UID)
            assert counted is not None
            assert (counted.pids, counted.oom_kills) == (0, 0)
            made.remove()
            if limit == 20:
                assert scanner.read(UID) is None
    finally:
        scanner.close()
        made.remove()
