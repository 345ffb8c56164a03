"""Writable layers' filesystem, and the deletion of hostile trees in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry_node.kernel import syscalls
from skerry_node.rootfs import scratch, trees

SIZE_BYTES = 64 << 20
UID = "00000000-0000-0000-0000-0000000000aa"


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path)
    scratch.ensure_scratch(path, SIZE_BYTES)
    yield path
    scratch.remove_scratch(path)


@pytest.fixture
def scratch_dir(state_dir: str) -> str:
    return os.path.join(state_dir, "scratch")


def _mount_line(path: str) -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return next(line for line in file if line.split()[4] == path)


def _loops_on(image: str) -> int:
    listed = subprocess.run(["losetup", "--noheadings", "-j", image], capture_output=True, text=True, check=True).stdout
    return len(listed.splitlines())


def test_filesystem_is_sparse_without_journal_and_runs_nothing_of_its_files(state_dir: str, scratch_dir: str):
    """A writable layer's setuid bits and device nodes are dead on the host, and its size is not paid in advance."""
    line = _mount_line(scratch_dir)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert os.stat(f"{state_dir}/scratch.img").st_blocks * 512 < SIZE_BYTES // 4
    features = subprocess.run(["dumpe2fs", "-h", f"{state_dir}/scratch.img"], capture_output=True, text=True, check=True).stdout
    assert "has_journal" not in features
    assert stat.S_IMODE(os.stat(scratch_dir).st_mode) == 0o700


@pytest.mark.host("our own files do not depend on the kernel")
def test_ensuring_twice_changes_nothing(state_dir: str, scratch_dir: str):
    """The second call finds everything in place."""
    before = _mount_line(scratch_dir)
    scratch.ensure_scratch(state_dir, SIZE_BYTES)
    assert _mount_line(scratch_dir) == before
    assert _loops_on(f"{state_dir}/scratch.img") == 1


def test_a_mount_that_lives_elsewhere_keeps_its_one_loop_device(state_dir: str, scratch_dir: str):
    """Another mount namespace still has the filesystem: a second loop device on the same file would destroy it."""
    code = "import os; os.unshare(0x20000) if hasattr(os, 'unshare') else None; print('up', flush=True); input()"
    if not hasattr(os, "unshare"):
        code = "import ctypes; assert ctypes.CDLL(None).unshare(0x20000) == 0; print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        Path(scratch_dir, "kept").write_text("here", encoding="ascii")
        syscalls.umount(scratch_dir.encode())
        scratch.ensure_scratch(state_dir, SIZE_BYTES)
        assert _loops_on(f"{state_dir}/scratch.img") == 1
        assert Path(scratch_dir, "kept").read_text(encoding="ascii") == "here"
        holder.communicate("\n")


def test_an_unclean_filesystem_is_repaired_before_it_is_mounted(state_dir: str, scratch_dir: str):
    """As after a power cut: the superblock says unclean, and files are there again."""
    image = f"{state_dir}/scratch.img"
    Path(scratch_dir, "kept").write_text("here", encoding="ascii")
    syscalls.umount(scratch_dir.encode())
    deadline = time.monotonic() + 180
    while _loops_on(image) and time.monotonic() < deadline:
        time.sleep(0.01)
    subprocess.run(["debugfs", "-w", "-R", "ssv state 0", image], capture_output=True, check=True)
    scratch.ensure_scratch(state_dir, SIZE_BYTES)
    assert Path(scratch_dir, "kept").read_text(encoding="ascii") == "here"


@pytest.mark.host("our own files do not depend on the kernel")
def test_size_zero_is_a_plain_directory(tmp_path: Path):
    """Nothing is mounted and no image made."""
    scratch.ensure_scratch(str(tmp_path), 0)
    assert os.listdir(tmp_path) == ["scratch"]
    scratch.remove_scratch(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_layer_keeps_its_files_and_gets_a_fresh_work_directory(scratch_dir: str):
    """What a start after a stop needs: upper as it was, and a work directory without the mark of `volatile`."""
    scratch.ensure_writable(scratch_dir, UID, owner=70_000)
    Path(scratch_dir, UID, "upper", "file").write_text("kept", encoding="ascii")
    os.makedirs(f"{scratch_dir}/{UID}/work/work/incompat/volatile")
    scratch.ensure_writable(scratch_dir, UID, owner=70_000)
    assert os.listdir(f"{scratch_dir}/{UID}/work") == []
    assert Path(scratch_dir, UID, "upper", "file").read_text(encoding="ascii") == "kept"
    assert os.stat(f"{scratch_dir}/{UID}/upper").st_uid == 70_000


@pytest.mark.host("our own files do not depend on the kernel")
def test_an_upper_whose_owner_a_crash_left_out_is_given_to_the_sandbox(scratch_dir: str):
    """Killed between mkdir and chown: the next call makes it right."""
    os.makedirs(f"{scratch_dir}/{UID}/upper")
    scratch.ensure_writable(scratch_dir, UID, owner=70_000)
    assert os.stat(f"{scratch_dir}/{UID}/upper").st_uid == 70_000


def _plant(top: str, kind: str, canary: str) -> None:
    os.makedirs(top)
    fd = os.open(top, os.O_RDONLY)
    try:
        if kind == "links":
            os.symlink(canary, "link", dir_fd=fd)
            os.symlink("..", "up", dir_fd=fd)
            os.mkdir("closed", 0o000, dir_fd=fd)
            os.mkfifo("fifo", dir_fd=fd)
            os.mknod("whiteout", stat.S_IFCHR, 0, dir_fd=fd)
        elif kind == "names":
            for name in (b"\xff\xfe", b"-rf", b"a\nb", b"." * 200, b".trash-x"):
                os.mkdir(b"%b/%b" % (top.encode(), name))
        elif kind == "wide":
            for number in range(300):
                os.makedirs(f"{top}/{number}/below")
        else:
            for _ in range(5_000):  # a path of 10,000 bytes and more: no call takes it whole
                os.mkdir("d", dir_fd=fd)
                below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
    finally:
        os.close(fd)


@pytest.mark.host("deleting by directory fd is as old as the hills, and its trees take long emulated")
@pytest.mark.parametrize("kind", ["links", "names", "wide", "deep"])
def test_a_hostile_tree_goes_and_nothing_outside_it(scratch_dir: str, tmp_path: Path, kind: str):
    """Links, devices, odd names, closed directories and trees deeper than any path: all deleted; what links point to stays."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("alive", encoding="ascii")
    _plant(f"{scratch_dir}/{UID}/upper/tree", kind, str(canary))
    assert scratch.remove_writable(scratch_dir, UID)
    assert [name for name in os.listdir(scratch_dir) if name != "lost+found"] == []
    assert (canary / "file").read_text(encoding="ascii") == "alive"


@pytest.mark.host("our own bounds do not depend on the kernel")
def test_a_big_tree_is_out_of_sight_at_once_and_swept_later(scratch_dir: str):
    """The removal that a launch waits for is bounded; the rest is `sweep_trash`'s."""
    _plant(f"{scratch_dir}/{UID}/upper/tree", "wide", "")
    assert not scratch.remove_writable(scratch_dir, UID, entries=50)
    assert not os.path.exists(f"{scratch_dir}/{UID}")
    assert any(name.startswith(".trash-") for name in os.listdir(scratch_dir))
    scratch.sweep_trash(scratch_dir)
    assert [name for name in os.listdir(scratch_dir) if name != "lost+found"] == []


def test_deletion_works_at_zero_bytes_free(scratch_dir: str):
    """A full disk is a reason to delete, not a reason to fail."""
    os.makedirs(f"{scratch_dir}/{UID}/upper/a/b/c")
    with open(f"{scratch_dir}/{UID}/upper/a/full", "wb") as file, pytest.raises(OSError, match="No space left"):
        os.posix_fallocate(file.fileno(), 0, 2 * SIZE_BYTES)
    assert os.statvfs(scratch_dir).f_bavail == 0
    assert scratch.remove_writable(scratch_dir, UID)


def test_a_link_in_the_place_of_a_tree_is_only_unlinked(tmp_path: Path):
    """The top itself is never followed."""
    (tmp_path / "kept").mkdir()
    os.symlink("kept", tmp_path / "link")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert trees.remove_tree("link", directory_fd=fd)
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == ["kept"]
