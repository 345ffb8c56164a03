"""fs-verity on a filesystem of our own that was made for it; where the kernel was built without, the reason is said and nothing else is lost."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from skerry_node.image import verity


@pytest.fixture
def filesystem(tmp_path, ledger):
    """An ext4 with the feature, mounted; None where the kernel refuses it."""
    image, directory = tmp_path / "verity.img", tmp_path / "mounted"
    directory.mkdir()
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "verity", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(directory)], capture_output=True, check=False)
    yield directory if done.returncode == 0 else None
    if done.returncode == 0:
        subprocess.run(["umount", str(directory)], check=True)


def enable(directory, name):
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return verity.enable(name, directory_fd=fd)
    finally:
        os.close(fd)


def test_a_sealed_file_takes_no_write(filesystem, tmp_path):
    """Where it works, nobody can open the file for writing any more; sealing it again is fine. Elsewhere the reason names fs-verity."""
    directory = filesystem or tmp_path
    (directory / "layer").write_bytes(os.urandom(100_000))
    reason = enable(directory, "layer")
    if reason is not None:
        assert "fs-verity" in reason
        return
    with pytest.raises(OSError, match="layer") as raised:
        (directory / "layer").open("r+b")
    assert raised.value.errno in {errno.EPERM, errno.EACCES}
    assert enable(directory, "layer") is None
    assert len((directory / "layer").read_bytes()) == 100_000


def test_a_filesystem_without_it_says_so(tmp_path, ledger):
    """A layer there is held by its seal alone."""
    directory = tmp_path / "memory"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(directory)], check=True)
    try:
        (directory / "layer").write_bytes(b"x")
        assert "fs-verity" in (enable(directory, "layer") or "")
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_other_errors_are_raised(tmp_path, ledger):
    """What is not there is no matter of features."""
    with pytest.raises(FileNotFoundError):
        enable(tmp_path, "absent")
