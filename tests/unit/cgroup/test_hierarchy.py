"""Which control groups a machine has, read from its mount table."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry_node.cgroup import hierarchy

V1 = """\
31 30 0:27 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /c/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /c/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""
V2 = "40 30 0:31 / {} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def _detect(tmp_path: Path, mountinfo: str, controllers: str = "") -> hierarchy.Hierarchies:
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").write_text(controllers, encoding="ascii")
    table = tmp_path / "mountinfo"
    table.write_text(mountinfo.format(tmp_path / "unified"), encoding="utf-8")
    return hierarchy.detect(str(table))


@pytest.mark.parametrize(
    ("mountinfo", "controllers", "version"),
    [
        pytest.param(V2, "cpuset cpu io memory pids", 2, id="unified"),
        pytest.param(V1, "", 1, id="version 1 only"),
        pytest.param(V1 + V2, "", 1, id="hybrid: the unified one has no controllers"),
        pytest.param(V1 + V2, "cpu memory pids", 2, id="both: the newer one"),
    ],
)
def test_the_version_is_the_one_that_has_the_controllers(tmp_path: Path, mountinfo: str, controllers: str, version: int):
    """A mount alone says nothing."""
    assert _detect(tmp_path, mountinfo, controllers).version == version


def test_controllers_on_one_mount_are_joined_once(tmp_path: Path):
    """Usually cpu and cpuacct share a hierarchy."""
    found = _detect(tmp_path, V1)
    assert found.roots == ("/c/cpu,cpuacct", "/c/memory", "/c/pids")


def test_a_machine_without_pids_is_told_what_to_mount(tmp_path: Path):
    """A sentence with what is missing and what to do."""
    with pytest.raises(hierarchy.CgroupsMissing, match="controller pids; mount cgroup2"):
        _detect(tmp_path, "".join(V1.splitlines(keepends=True)[:2]))
