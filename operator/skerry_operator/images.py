"""What a SandboxImage's status says, from what the nodes say in theirs. Pure.

The nodes that shall hold it are those that its selector means; one that has fallen silent is not counted, nor waited for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from skerry_api import conditions
from skerry_api import image as api
from skerry_api.conditions import Condition
from skerry_api.node import PreparedImage, SandboxNode
from skerry_operator import scheduling

MAX_NODES, _MAX_MESSAGE = 100, 1024


@dataclass(frozen=True, slots=True)
class _Told:
    """What one node says of it, at the spec as it is now; None while it says nothing."""

    node: str
    entry: PreparedImage | None


def decide(image: api.SandboxImage, nodes: Iterable[SandboxNode], *, is_alive: Callable[[str], bool], now: str) -> dict[str, Any]:
    """The operator's part of the status, as JSON; fields that say nothing are null."""
    known = sorted(nodes, key=lambda node: node.name)
    living = [node for node in known if is_alive(node.name)]
    builder = _choose_builder(image, living) if image.build is not None else None
    wanted = [node for node in living if (node.name == builder if image.build is not None else _is_meant(image, node))]
    told = [_Told(node.name, _find(image, node)) for node in wanted]
    holders = [each for each in told if each.entry is not None and each.entry.is_here]
    digest, size = _agree(holders)
    tellers = (each.node for each in holders if each.entry is not None and each.entry.digest == digest)
    found = _conditions(image, told, holders, now=now)
    return {
        "observedGeneration": image.generation,
        "image": image.image,
        "nodeName": builder if image.build is not None else next(tellers, None),
        "digest": digest,
        "sizeBytes": size,
        "size": _render_bytes(size) if size is not None else None,
        "progress": f"{len(holders)}/{len(told)}",
        "nodes": [each.node for each in holders[:MAX_NODES]],
        "conditions": [conditions.render_condition(each) for each in conditions.merge_conditions(image.status.conditions, found)],
    }


def _is_meant(image: api.SandboxImage, node: SandboxNode) -> bool:
    return api.is_selected(image.prepull, dict(node.labels))


def _choose_builder(image: api.SandboxImage, living: list[SandboxNode]) -> str | None:
    """The node that builds, or has built: the one that was chosen, while it lives; else the least used one that takes work and is meant."""
    if any(node.name == image.status.node_name for node in living):
        return image.status.node_name
    free = [
        node
        for node in living
        if scheduling.is_ready(node) and not node.unschedulable and not node.taints and (image.prepull is None or _is_meant(image, node))
    ]
    return min(free, key=lambda node: (node.status.allocated.sandboxes, node.name)).name if free else None


def _find(image: api.SandboxImage, node: SandboxNode) -> PreparedImage | None:
    entries = node.status.prepared or ()
    return next((each for each in entries if each.uid == image.uid and each.generation == image.generation), None)


def _agree(holders: list[_Told]) -> tuple[str | None, int | None]:
    """The digest that most nodes hold, and its size: a tag may have moved between two pulls."""
    counted = Counter((each.entry.digest, each.entry.size_bytes) for each in holders if each.entry is not None)
    if not counted:
        return None, None
    return min(counted, key=lambda pair: (-counted[pair], pair))


def _conditions(image: api.SandboxImage, told: list[_Told], holders: list[_Told], *, now: str) -> tuple[Condition, ...]:
    kind, doing = ("Built", "Building") if image.build is not None else ("Pulled", "Pulling")
    failed = [each for each in told if each.entry is not None and each.entry.state == "Failed"]
    if not told:
        reason, message = ("NoNode", "no node that is alive is meant; see spec.prepull.nodeSelector") if _wants_nodes(image) else ("NotWanted", "")
        is_done = not _wants_nodes(image)
    elif failed:
        first = failed[0]
        message = f"{first.node}: {first.entry.message if first.entry is not None else ''}"
        reason, is_done = f"{doing.removesuffix('ing')}Failed" if kind == "Pulled" else "BuildFailed", False
    else:
        is_done = len(holders) == len(told)
        waiting = next((each.entry.message for each in told if each.entry is not None and not each.entry.is_here), "")
        reason, message = (kind, "") if is_done else (doing, waiting or f"{len(holders)} of {len(told)} nodes hold it")
    status = "True" if is_done else "False"
    return tuple(
        Condition(
            type=each, status=status, reason=reason, message=message[:_MAX_MESSAGE], last_transition_time=now, observed_generation=image.generation
        )
        for each in (kind, "Ready")
    )


def _wants_nodes(image: api.SandboxImage) -> bool:
    return image.build is not None or image.prepull is not None


def _render_bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
