"""SIGKILL before every system call that changes the store, while a writable layer is committed: each time the whole image, or none of it.

`make test` takes every fourth point, `make test-all` takes all (tests/harness/points.py); how many there are is printed, and stands in
docs/carrying.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

import pytest

from skerry_node.carrying import committing
from skerry_node.image import importing, store
from skerry_node.serving.images import CommitRequest
from tests.harness import images, killpoints
from tests.harness import points as parts
from tests.security.test_crash_points import ENVIRONMENT, PARTS, assert_consistent, leftovers

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the converter's walls are those of an agent that is root"),
]
COMMIT = """
import os, sys
from skerry_node.carrying import committing
from skerry_node.image import store
from skerry_node.serving.images import CommitRequest
kept = store.Store(sys.argv[1])
upper = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)
request, directory = CommitRequest(reference="new:1"), sys.argv[1]
committing.commit(kept, kept.find("base:1"), upper, request, id_base=0, directory=directory, now_ns=0, confirm=lambda: None)
"""


def test_a_commit_is_whole_or_not_there(tmp_path, record_property):
    """After each kill the store opens, the base is unharmed, nothing else stays, and the commit can be done."""
    layout = images.write_layout(str(tmp_path / "layout"), [images.make_tar({"etc/a": b"below"})], name="base:1")
    (tmp_path / "upper").mkdir(mode=0o755)
    (tmp_path / "upper/new").write_bytes(bytes(range(256)) * 20_000)
    upper = os.open(tmp_path / "upper", os.O_RDONLY | os.O_DIRECTORY)

    def prepared(name):
        root = tmp_path / name
        with contextlib.closing(store.Store(str(root))) as kept:
            base = importing.import_layout(kept, layout)
        return root, base

    def command(root):
        return [sys.executable, "-c", COMMIT, str(root), str(tmp_path / "upper")]

    first, _ = prepared("first")
    points = killpoints.find(command(first), below=str(first), environment=ENVIRONMENT, log=str(tmp_path / "log"))
    taken, killed = parts.take(points, PARTS), 0
    for number, point in enumerate(taken):
        root, base = prepared(f"store-{number}")
        killed += killpoints.run_killed(command(root), point, environment=ENVIRONMENT)
        with contextlib.closing(store.Store(str(root))) as again:
            assert_consistent(again)
            assert leftovers(root) == []
            assert again.find("base:1") == base
            request = CommitRequest(reference="new:1")
            done = committing.commit(again, base, upper, request, id_base=0, directory=str(root), now_ns=0, confirm=lambda: None)
            assert again.images == (base, done.image)
            assert_consistent(again)
        shutil.rmtree(root)
    os.close(upper)
    record_property(parts.KEY, f"commit: {killed} of {len(points)}")
    assert killed >= 0.9 * len(taken)
    assert len(points) > 20
