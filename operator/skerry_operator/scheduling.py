"""Which node takes a sandbox. Pure: what every node has and gave comes in, a decision comes out.

The filters are kube-scheduler's, in its order: unschedulable, node selector, taints, resources. The score is the dominant share:
of what a node can give in CPU, memory and number of sandboxes, the part most used up; the least used node wins, where a node that
holds the image counts as less used (`fitness`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skerry_api.node import NodeAmounts, SandboxNode, Taint
from skerry_api.ports import HostPort, host_ports
from skerry_api.sandbox import SandboxSpec, Toleration
from skerry_operator import fitness

_NOTHING = NodeAmounts()
_WORDS = (
    ("node(s) were lost", "Lost"),
    ("node(s) were not ready", "NotReady"),
    ("node(s) were unschedulable", "Unschedulable"),
    ("node(s) didn't match the node selector", "Selector"),
    ("node(s) had untolerated taint", "Tainted"),
    ("Too many sandboxes", "TooManySandboxes"),
    ("node(s) lacked the feature", "FeatureMissing"),
    ("Insufficient cpu", "InsufficientCpu"),
    ("Insufficient memory", "InsufficientMemory"),
    ("node(s) didn't have free ports", "HostPorts"),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node, what the sandboxes bound to it asked for, and whether its heartbeat is heard."""

    node: SandboxNode
    given: NodeAmounts = _NOTHING
    is_alive: bool = True
    ports: frozenset[HostPort] = frozenset()
    """Published for those sandboxes already."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A node takes it."""

    node_name: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node takes it; the message counts why, for people."""

    message: str
    reason: str = "NoNodes"
    """What keeps most nodes from taking it, in one word."""


def schedule(spec: SandboxSpec, candidates: Iterable[Candidate]) -> Bound | Unschedulable:
    """The least used node that *spec* fits on, weighed with its images; among equals the first by name."""
    reasons: Counter[str] = Counter()
    best: tuple[float, int, str] | None = None
    total = 0
    for candidate in candidates:
        total += 1
        against = tuple(_objections(spec, candidate))
        if against:
            reasons.update(against)
            continue
        score = (_dominant_share(spec, candidate) - fitness.score_image(spec, candidate.node), candidate.given.sandboxes, candidate.node.name)
        if best is None or score < best:
            best = score
    if best is not None:
        return Bound(best[2])
    if not total:
        return Unschedulable("0/0 nodes are available: no SandboxNode is registered.")
    counted = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    return Unschedulable(f"0/{total} nodes are available: {counted}.", _word(min(reasons, key=lambda each: (-reasons[each], each))))


def _word(objection: str) -> str:
    """An objection as one word of a short list."""
    return next((word for text, word in _WORDS if objection.startswith(text)), "Undecided")


def is_ready(node: SandboxNode) -> bool:
    """Whether the agent says that its node takes sandboxes."""
    return any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)


def is_tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """Whether one of *tolerations* matches, as pods' tolerations do: no key with Exists matches all, no effect matches each."""
    return any(
        (not each.effect or each.effect == taint.effect)
        and (
            (each.operator == "Exists" and each.key in {"", taint.key})
            or (each.operator == "Equal" and each.key == taint.key and each.value == taint.value)
        )
        for each in tolerations
    )


def _objections(spec: SandboxSpec, candidate: Candidate) -> Iterator[str]:
    """Why not, by the first filter that says no; resources name each one that lacks."""
    node = candidate.node
    if not candidate.is_alive:
        yield "node(s) were lost"
    elif not is_ready(node):
        yield "node(s) were not ready"
    elif node.unschedulable:
        yield "node(s) were unschedulable"
    elif not set(spec.node_selector) <= set(node.labels):
        yield "node(s) didn't match the node selector"
    elif untolerated := [each for each in node.taints if not is_tolerated(each, spec.tolerations)]:
        taint = untolerated[0]
        yield f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    elif lack := fitness.find_lack(spec, node):
        yield f"node(s) lacked the feature {lack}"
    else:
        yield from _lacking(spec, candidate)


def _lacking(spec: SandboxSpec, candidate: Candidate) -> Iterator[str]:
    asked, given, can_give = spec.resources.requests, candidate.given, candidate.node.status.allocatable
    if given.sandboxes + 1 > can_give.sandboxes:
        yield "Too many sandboxes"
    if asked.cpu_millicores and given.cpu_millicores + asked.cpu_millicores > can_give.cpu_millicores:
        yield "Insufficient cpu"
    if asked.memory_bytes and given.memory_bytes + asked.memory_bytes > can_give.memory_bytes:
        yield "Insufficient memory"
    if candidate.ports and any(wanted.meets(held) for wanted in host_ports(spec.network.ports) for held in candidate.ports):
        yield "node(s) didn't have free ports for the requested host ports"


def _dominant_share(spec: SandboxSpec, candidate: Candidate) -> float:
    asked, given, can_give = spec.resources.requests, candidate.given, candidate.node.status.allocatable
    return max(
        (given.cpu_millicores + asked.cpu_millicores) / max(can_give.cpu_millicores, 1),
        (given.memory_bytes + asked.memory_bytes) / max(can_give.memory_bytes, 1),
        (given.sandboxes + 1) / max(can_give.sandboxes, 1),
    )
