"""The runtime directory is memory, whatever it lies on."""

from __future__ import annotations

import os
import subprocess

import pytest

from skerry_node.rootfs import runtime


@pytest.fixture
def place(tmp_path, ledger):
    """A directory on a disk, and nothing mounted afterwards."""
    assert runtime.find_filesystem(str(tmp_path)) not in {"tmpfs", "ramfs"}, "pytest's directory must lie on a disk for this"
    yield str(tmp_path / "run")
    runtime.remove_memory(str(tmp_path / "run"))


def test_a_disk_is_covered_by_memory_that_is_ours(place):
    """For root only, no devices, no programs, no setuid, and mounts below it stay in this namespace."""
    runtime.ensure_memory(place)
    assert runtime.find_filesystem(place) == "tmpfs"
    assert os.stat(place).st_mode & 0o777 == 0o700
    line = find_mounts(place)[0]
    assert {"nosuid", "nodev", "noexec"} <= set(line[5].split(","))
    assert "shared:" not in " ".join(line)


def test_what_is_memory_already_is_left(place):
    """A second call mounts nothing, and files stay: a new agent finds what runs."""
    runtime.ensure_memory(place)
    with open(os.path.join(place, "record"), "w", encoding="utf-8") as file:
        file.write("kept")
    runtime.ensure_memory(place)
    assert len(find_mounts(place)) == 1
    assert os.listdir(place) == ["record"]


def test_a_directory_below_memory_needs_no_mount(place):
    """As /run is on most systems."""
    runtime.ensure_memory(place)
    below = os.path.join(place, "below")
    runtime.ensure_memory(below)
    assert find_mounts(below) == []
    assert os.path.isdir(below)


def test_removing_takes_every_mount_and_is_repeatable(place):
    """Two mounts on one point, as two agents that start at once might make, both go; then there is nothing to do."""
    runtime.ensure_memory(place)
    subprocess.run(["mount", "-t", "tmpfs", "second", place], check=True)
    runtime.remove_memory(place)
    assert find_mounts(place) == []
    runtime.remove_memory(place)
    runtime.remove_memory(place + "-never-there")


def find_mounts(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [fields for line in file if (fields := line.split())[4] == path]
