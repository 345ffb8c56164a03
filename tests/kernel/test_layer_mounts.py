"""Layers as the keeper mounts them, with file-backed mounts and with loop devices forced, as on kernels before 6.12."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest

from skerry_node.image import importing, store
from tests.harness import images

SCRIPT = """
import errno, json, os, stat, sys
from skerry_node.keeper import rootfs, tree
from skerry_node.kernel import syscalls
directory, names, way, stage = sys.argv[1], sys.argv[2].split(","), sys.argv[3], os.fsencode(sys.argv[4])
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount(b"none", b"/", None, flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
tree.STAGE, tree.LOOPS = stage + b"/stage", stage + b"/loops"
os.mkdir(tree.STAGE), os.mkdir(tree.LOOPS)
real, tried = rootfs._mount_erofs, []
def mount(source):
    tried.append(source.decode())
    if way == "loop" and b"loop" not in source:
        raise OSError(errno.ENOTBLK, "not a block device")
    return real(source)
rootfs._mount_erofs = mount
layers = rootfs.Layers(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
found = {}
for name in names:
    fd = layers.ensure(name)
    assert layers.ensure(name) == fd
    for path in ("etc/a", "etc/b"):
        try:
            file = os.open(path, os.O_RDONLY, dir_fd=fd)
        except FileNotFoundError:
            continue
        found[path] = os.read(file, 100).decode()
        os.close(file)
    try:
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    except OSError as error:
        found["write"] = errno.errorcode[error.errno]
for name in names:
    layers.forget(name)
    layers.forget(name)
found["left"] = os.listdir(tree.STAGE) + os.listdir(tree.LOOPS)
found["loops"] = sum("loop" in each for each in tried)
print(json.dumps(found))
"""


HAS_FILE_MOUNTS = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 12)


@pytest.mark.parametrize(
    ("way", "loops"),
    [
        pytest.param("file", 0, marks=pytest.mark.skipif(not HAS_FILE_MOUNTS, reason="kernels before 6.12 mount EROFS from block devices only")),
        ("loop", 2),
    ],
)
def test_layers_are_mounted_read_only_and_given_up(tmp_path, ledger, way, loops):
    """Either way the same content, no write, and nothing left: no mount, no loop device, no file."""
    tars = [images.make_tar({"etc/a": b"below"}), images.make_tar({"etc/b": b"above"})]
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as kept:
        image = importing.import_layout(kept, images.write_layout(str(tmp_path / "layout"), tars, name="one:1"))
    (tmp_path / "stage").mkdir()
    names = ",".join(layer.path for layer in image.layers)
    command = [sys.executable, "-c", SCRIPT, kept.layers_dir, names, way, str(tmp_path / "stage")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"etc/a": "below", "etc/b": "above", "write": "EROFS", "left": [], "loops": loops}
