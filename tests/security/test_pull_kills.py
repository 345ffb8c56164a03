"""The store after a kill at any point of a pull: the whole image, or nothing of it; and the next pull works.

`make test` takes every fourth point, `make test-all` takes all (tests/harness/points.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from skerry_node.image import access, base, pulling, reference, store
from skerry_node.image.registry import client, hosts
from tests.fakes.registry import Registry
from tests.harness import images
from tests.harness import points as parts

TARS = (images.make_tar({"etc/a": b"below" * 10_000}), images.make_tar({"etc/b": b"above"}))
KILLED = """
import asyncio, os, signal, sys, threading
sys.path[:0] = sys.argv[4:]
calls, lock = 0, threading.Lock()
def counted(name):
    real = getattr(os, name)
    def call(*arguments, **named):
        global calls
        with lock:
            calls += 1
            if calls == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(os, name, call)
from skerry_node.image import pulling, reference, store
from skerry_node.image.registry import client, hosts
for name in ("mkdir", "open", "write", "fsync", "rename", "unlink", "ftruncate", "close"):
    counted(name)
async def main():
    kept = store.Store(sys.argv[1])
    puller = pulling.Puller(kept, client.Client(hosts.Hosts(None)))
    await puller.pull(reference.parse(sys.argv[2]), is_named=True)
    await puller.close()
asyncio.run(main())
"""


async def test_kill_at_any_point_leaves_all_or_nothing(tmp_path, record_property):
    """SIGKILL before each file call of the pulling process: the next store has the whole image or none, no stray layer, and pulling then works."""
    points, killed, was_killed, states = 0, 0, True, set()
    coming = iter(parts.take(range(1, 10_000), 4))
    async with Registry() as registry:
        registry.put_image(*TARS)
        wanted = reference.parse(registry.reference())
        while was_killed:
            points = next(coming)
            root = str(tmp_path / f"store-{points}")
            done = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, root, str(wanted), str(points), *sys.path)
            was_killed = await done.wait() == -signal.SIGKILL
            assert was_killed or done.returncode == 0
            killed += was_killed
            with contextlib.closing(store.Store(root)) as again:
                found = again.list()
                states.add(len(found))
                assert sorted(name for name in os.listdir(again.layers_dir) if name != base.NAME) == sorted(
                    layer.path for image in found for layer in image.layers
                )
                puller = pulling.Puller(again, client.Client(hosts.Hosts(None)))
                image = await puller.pull(wanted, is_named=True)
                await puller.close()
                assert again.list() == [image]
                assert access.is_public(again, image, wanted)
    record_property(parts.KEY, f"pull, by file call: {killed}, up to call {points} of all")
    assert states == {0, 1}
    assert points > 30
