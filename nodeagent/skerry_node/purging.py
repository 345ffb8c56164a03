"""Everything of a node removed from the machine, by a program that runs while no agent does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil

from skerry_node import ground, mounting
from skerry_node.cgroup import group, hierarchy
from skerry_node.keeper import client, holding
from skerry_node.keeper.settings import Settings as KeeperSettings
from skerry_node.network import bridge, knocks, layouts, portrules, ruleset, shaper
from skerry_node.rootfs import disks, runtime, scratch
from skerry_node.settings import Settings
from skerry_node.volumes import places


async def purge(settings: Settings, *, images: bool) -> None:
    """Remove everything of this node from the machine: sandboxes, keeper, mounts, cgroups, links, rules; images too when asked."""
    groups = ground.ensure_groups(settings)
    for uid in groups.list():
        groups.open(uid).kill()
    keeper = client.Client(
        KeeperSettings(settings.keeper_socket, "", "", "", "", "", (), (), 0, 0),
        on_exit=lambda _: None,
        on_lost=lambda: None,
    )
    if await keeper.connect_only():
        with contextlib.suppress(client.KeeperLost):
            await keeper.stop()
    await keeper.close()
    holding.stop_attic(os.path.join(settings.run_dir, holding.NAME))
    await _wait_for_cgroups(groups)
    for _ in range(250):  # keeper and attic need a moment to leave theirs
        if hierarchy.remove_parent(groups.hierarchies, settings.cgroup_parent):
            break
        await asyncio.sleep(0.02)
    with contextlib.suppress(FileNotFoundError):
        for uid in os.listdir(settings.volumes_dir):
            disks.remove(settings.volumes_dir, settings.scratch_dir, uid)
            places.remove(mounting.make_places(settings), uid)
    scratch.remove_scratch(settings.state_dir)
    await asyncio.to_thread(bridge.remove_bridge, settings.bridge)
    await asyncio.to_thread(shaper.remove_ifb, layouts.ifb_name(settings))
    with contextlib.suppress(knocks.KnocksUnavailable):
        knocks.remove(settings.bridge)
    portrules.remove_rules(settings.bridge)
    if not settings.keeper_outside:  # there it is a volume of the pod
        runtime.remove_memory(settings.run_dir)
    ruleset.remove_rules(settings.bridge)
    shutil.rmtree(settings.run_dir, ignore_errors=True)
    shutil.rmtree(settings.logs_dir, ignore_errors=True)
    if images:
        _remove_state(settings)


def _remove_state(settings: Settings) -> None:
    """Remove the state directory but for a directory of manifests in it: those are people's, not ours."""
    spared = {"manifests"}
    if settings.manifests_dir is not None:
        spared.add(os.path.relpath(os.path.realpath(settings.manifests_dir), os.path.realpath(settings.state_dir)).partition("/")[0])
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(settings.state_dir):
            path = os.path.join(settings.state_dir, name)
            if name not in spared and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            elif name not in spared:
                os.unlink(path)
    with contextlib.suppress(OSError):  # manifests are there
        os.rmdir(settings.state_dir)


async def _wait_for_cgroups(groups: group.Parent) -> None:
    for _ in range(250):
        for uid in groups.list():
            groups.open(uid).kill()
            with contextlib.suppress(OSError):
                groups.open(uid).remove()
        if not groups.list():
            return
        await asyncio.sleep(0.02)
