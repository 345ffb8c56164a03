"""Rates of devices in control files, on a directory that stands for a cgroup of version 2, and one of version 1."""

from __future__ import annotations

import errno

import pytest

from skerry_node.cgroup import throttle
from skerry_node.cgroup.group import Group
from skerry_node.model import Limits

FILES = {"v1": ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"), "v2": ("io.max",)}


@pytest.fixture(params=["v1", "v2"])
def found(request, tmp_path):
    """A group whose control files are plain ones, which keep the text as it was written."""
    for name in (*FILES[request.param], "cgroup.procs"):
        (tmp_path / name).write_text("")
    names = ("cpu", "memory", "pids", *(("blkio",) if request.param == "v1" else ()))
    return Group(dict.fromkeys(names, str(tmp_path)), 1 if request.param == "v1" else 2)


@pytest.mark.parametrize(
    ("read", "write"),
    [pytest.param(None, None, id="none: nothing written"), pytest.param(1 << 20, 2 << 20, id="both"), pytest.param(None, 1 << 20, id="writes only")],
)
def test_what_was_written_is_read(found, tmp_path, read, write):
    """None and a number for each direction; a group without limits stays untouched."""
    throttle.write(found, Limits(read_bytes_per_second=read, write_bytes_per_second=write), "7:3")
    held = throttle.read(found)
    wanted = {"read_bytes_per_second": read, "write_bytes_per_second": write}
    if found.version == 1 and read is None and write is not None:
        assert (tmp_path / FILES["v1"][0]).read_text() == "7:3 0"  # which the kernel takes as none
        wanted["read_bytes_per_second"] = 0
    assert held == wanted


def test_without_a_device_it_is_refused(found):
    """The sentence names the field."""
    with pytest.raises(OSError, match=r"limits\.io: the writable layer is on no block device") as caught:
        throttle.write(found, Limits(read_bytes_per_second=1), None)
    assert caught.value.errno == errno.ENOTSUP


def test_without_a_controller_it_is_refused(tmp_path):
    """Version 1 without its hierarchy, version 2 where the controller is not handed down."""
    for version, words in ((1, "no blkio hierarchy"), (2, "not handed down")):
        bare = Group(dict.fromkeys(("cpu", "memory", "pids"), str(tmp_path)), version)
        with pytest.raises(OSError, match=words):
            throttle.write(bare, Limits(read_bytes_per_second=1), "7:3")
