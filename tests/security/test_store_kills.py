"""The store after a kill at any point of an import: the whole image, or nothing of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from skerry_node.image import base, importing, store
from tests.harness import images

KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[4:]
calls = 0
def counted(name):
    real = getattr(os, name)
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(os, name, call)
for name in ("mkdir", "open", "pwrite", "ftruncate", "fsync", "rename", "unlink"):
    counted(name)
from skerry_node.image import importing, store
importing.import_layout(store.Store(sys.argv[1]), sys.argv[2])
"""


def test_kill_at_any_point_leaves_all_or_nothing(tmp_path):
    """SIGKILL before each of the image code's own file calls: the next store has the whole image or none, and importing then works."""
    layout = images.write_layout(str(tmp_path / "layout"), [images.make_tar({"etc/a": b"below"}), images.make_tar({"etc/b": b"above"})], name="one:1")
    points, was_killed = 0, True
    while was_killed:
        points += 1
        root = tmp_path / f"store-{points}"
        done = subprocess.run([sys.executable, "-c", KILLED, str(root), layout, str(points), *sys.path], check=False)
        was_killed = done.returncode == -signal.SIGKILL
        assert was_killed or done.returncode == 0
        with contextlib.closing(store.Store(str(root))) as again:
            assert sorted(name for name in os.listdir(again.layers_dir) if name != base.NAME) == sorted(
                layer.path for image in again.list() for layer in image.layers
            )
            image = importing.import_layout(again, layout)
            assert again.list() == [image]
    assert points > 15
