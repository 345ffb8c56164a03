"""Steps that leave nothing, leaf to root. Each can be repeated; what is gone already is fine."""

from __future__ import annotations

import asyncio
import os
import shutil

from skerry_node import mounting, steps
from skerry_node.means import Case, Hands
from skerry_node.rootfs import disks, scratch
from skerry_node.volumes import places

_ENTRIES_AT_ONCE = 200
"""Files of a writable layer that are deleted without leaving the loop: about 10 ms."""


async def remove_cgroup(hands: Hands, case: Case, _: steps.Step) -> None:
    """Processes that were just killed leave their cgroup within milliseconds; wait for them a little."""
    found = hands.view.groups.open(case.uid)
    for _attempt in range(100):
        try:
            found.remove()
        except OSError:
            await asyncio.sleep(0.002)
        else:
            return
    found.kill()
    found.remove()


async def remove_writable(hands: Hands, case: Case, _: steps.Step) -> None:
    """A small one at once; what is left of a large one is deleted beside the loop. A disk of its own is forgotten as a whole."""
    if os.path.ismount(os.path.join(hands.settings.scratch_dir, case.uid)):
        await asyncio.to_thread(disks.remove, hands.settings.volumes_dir, hands.settings.scratch_dir, case.uid)
    if not scratch.remove_writable(hands.settings.scratch_dir, case.uid, entries=_ENTRIES_AT_ONCE):
        await asyncio.to_thread(scratch.sweep_trash, hands.settings.scratch_dir)


async def remove_volumes(hands: Hands, case: Case, _: steps.Step) -> None:
    await asyncio.to_thread(places.remove, mounting.make_places(hands.settings), case.uid)


async def remove_logs(hands: Hands, case: Case, _: steps.Step) -> None:
    await asyncio.to_thread(shutil.rmtree, os.path.join(hands.settings.logs_dir, case.uid), ignore_errors=True)


async def withdraw_ports(hands: Hands, case: Case, _: steps.Step) -> None:
    lease = hands.view.leases.find(case.uid)
    if lease is not None:
        hands.view.ports.withdraw(lease.slot)


async def release_lease(hands: Hands, case: Case, _: steps.Step) -> None:
    lease = hands.view.leases.find(case.uid)
    if lease is not None:
        hands.view.leases.release(lease.slot)


async def remove_runtime(hands: Hands, case: Case, _: steps.Step) -> None:
    hands.handles.release(case.uid)
    hands.environments.forget(case.uid)
    shutil.rmtree(os.path.join(hands.settings.sandboxes_dir, case.uid), ignore_errors=True)


async def release_object(hands: Hands, case: Case, _: steps.Step) -> None:
    assert case.sandbox is not None
    await hands.source.remove_finalizer(case.sandbox)


async def expire_object(hands: Hands, case: Case, _: steps.Step) -> None:
    assert case.sandbox is not None
    await hands.source.delete(case.sandbox)
