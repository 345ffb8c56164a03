"""A simulated reboot of one node: what is left is what a real one leaves, the state directory and nothing of processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection
from typing import Protocol

from skerry_node.cgroup import group, hierarchy
from skerry_node.keeper import holding
from tests.harness.agents import Place, wait_for

_OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


class Node(Protocol):
    """An agent of the harness, in a cluster or standalone."""

    place: Place

    def kill(self) -> None: ...

    def kill_keeper(self) -> None: ...


def switch_off(node: Node, *, stale: Collection[str] = ()) -> None:
    """End agent, keeper, attic and every sandbox at once, and empty the runtime directory. Starting the agent is switching on.

    Of the uids in *stale* the runtime directory stays, as if it lay on a disk, with another boot's id in it.
    """
    node.kill()
    node.kill_keeper()
    run_dir = node.place.run_dir
    holding.stop_attic(os.path.join(run_dir, holding.NAME))
    parent = group.Parent(hierarchy.detect(), node.place.cgroup_parent)
    wait_for(None, f"no process left of {node.place.node_name}", lambda: not _end_all(parent))
    for name in ("sandboxes", "leases"):
        directory = os.path.join(run_dir, name)
        for entry in os.listdir(directory):
            path = os.path.join(directory, entry)
            if entry in stale:
                _age(path)
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run_dir, "agent.sock"))


def _end_all(parent: group.Parent) -> list[str]:
    """Kill and remove the control groups; those that are left come back."""
    for uid in parent.list():
        found = parent.open(uid)
        found.kill()
        with contextlib.suppress(OSError):
            found.remove()
    return parent.list()


def _age(path: str) -> None:
    for name in ("life", "process"):
        with contextlib.suppress(FileNotFoundError), open(os.path.join(path, name), "r+", encoding="utf-8") as file:
            raw = json.load(file) | {"boot_id": _OTHER_BOOT}
            file.seek(0)
            file.truncate()
            json.dump(raw, file)
