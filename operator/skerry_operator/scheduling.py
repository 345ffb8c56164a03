"""Which node a sandbox goes to. Pure: nodes and sandbox in, a decision out.

Filters as the scheduler has them for pods, then the least used node; the message of an unschedulable one counts nodes by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from skerry_api import names
from skerry_api.node import NodeAmounts, SandboxNode, Taint
from skerry_api.sandbox import Sandbox, Toleration


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as scheduling sees it: what is allocated counts every sandbox bound to it, binds under way included."""

    node: SandboxNode
    allocated: NodeAmounts
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Bound:
    """The sandbox goes to this node."""

    node_name: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node takes it; the message says why, with counts."""

    message: str


def decide(sandbox: Sandbox, candidates: Sequence[Candidate]) -> Bound | Unschedulable:
    """The node for *sandbox*: of those that fit, the one with the smallest used share after it, then fewest sandboxes, then by name."""
    reasons: Counter[str] = Counter()
    fitting = []
    for candidate in candidates:
        reason = refusal(sandbox, candidate)
        if reason is None:
            fitting.append(candidate)
        else:
            reasons[reason] += 1
    if fitting:
        best = min(fitting, key=lambda candidate: (_share(sandbox, candidate), candidate.allocated.sandboxes, candidate.node.name))
        return Bound(best.node.name)
    if not candidates:
        return Unschedulable("0/0 nodes are available: no node has joined; start skerry-agent on one")
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return Unschedulable(f"0/{len(candidates)} nodes are available: {counts}.")


def refusal(sandbox: Sandbox, candidate: Candidate) -> str | None:
    """Why *candidate* does not take *sandbox*, in words that can be counted; None when it does."""
    node, spec = candidate.node, sandbox.spec
    if not candidate.is_alive:
        return "node(s) were not ready"
    if node.unschedulable:
        return "node(s) were unschedulable"
    labels = {**dict(node.labels), names.HOSTNAME_LABEL: node.name}
    if any(labels.get(key) != value for key, value in spec.node_selector):
        return "node(s) didn't match the node selector"
    if any(not is_tolerated(taint, spec.tolerations) for taint in node.taints):
        return "node(s) had a taint that the sandbox didn't tolerate"
    free = _free(candidate)
    requests = spec.resources.requests
    if free.sandboxes < 1:
        return "Too many sandboxes"
    if requests.cpu_millicores > free.cpu_millicores:
        return "Insufficient cpu"
    if requests.memory_bytes > free.memory_bytes:
        return "Insufficient memory"
    return None


def is_tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    """Whether one of *tolerations* puts up with *taint*, by the rules that pods have."""
    return any(
        (not each.effect or each.effect == taint.effect)
        and (not each.key or each.key == taint.key)
        and (each.operator == "Exists" or (each.key == taint.key and each.value == taint.value))
        for each in tolerations
    )


def _free(candidate: Candidate) -> NodeAmounts:
    can, used = candidate.node.status.allocatable, candidate.allocated
    return NodeAmounts(
        cpu_millicores=can.cpu_millicores - used.cpu_millicores,
        memory_bytes=can.memory_bytes - used.memory_bytes,
        pids=can.pids - used.pids,
        sandboxes=can.sandboxes - used.sandboxes,
    )


def _share(sandbox: Sandbox, candidate: Candidate) -> float:
    """The larger of the shares of CPU, memory and places in use once *sandbox* is there."""
    can, used, more = candidate.node.status.allocatable, candidate.allocated, sandbox.spec.resources.requests
    return max(
        (used.cpu_millicores + more.cpu_millicores) / max(can.cpu_millicores, 1),
        (used.memory_bytes + more.memory_bytes) / max(can.memory_bytes, 1),
        (used.sandboxes + 1) / max(can.sandboxes, 1),
    )
