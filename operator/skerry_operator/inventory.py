"""The cluster as the operator knows it from watching: nodes, their heartbeats, sandboxes and where they are. Pure memory, no clock, no I/O.

Everything here is rebuilt by listing; a bind under way is counted until the watch shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from skerry_api.node import NodeAmounts, SandboxNode
from skerry_api.sandbox import Sandbox
from skerry_operator.scheduling import Candidate

_FINISHED = frozenset({"Completed", "Error", "OOMKilled", "Expired", "StartFailed", "Stopped", "KeeperLost", "NodeRebooted"})


@dataclass(slots=True)
class Inventory:
    """Sandboxes by uid, nodes by name, the time of each node's last heartbeat (seconds of the caller's clock)."""

    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    nodes: dict[str, SandboxNode] = field(default_factory=dict)
    heartbeats: dict[str, float] = field(default_factory=dict)
    _renewals: dict[str, str] = field(default_factory=dict)
    _assumed: dict[str, str] = field(default_factory=dict)
    _usage: dict[str, NodeAmounts] = field(default_factory=dict)

    def put_sandbox(self, sandbox: Sandbox) -> None:
        """Learn of a sandbox, new or changed."""
        uid = sandbox.metadata.uid
        self._count(uid, -1)
        self.sandboxes[uid] = sandbox
        if sandbox.spec.node_name:
            self._assumed.pop(uid, None)
        self._count(uid, 1)

    def drop_sandbox(self, uid: str) -> None:
        """Learn that a sandbox is gone."""
        self._count(uid, -1)
        self.sandboxes.pop(uid, None)
        self._assumed.pop(uid, None)

    def assume(self, uid: str, node_name: str) -> None:
        """Count a bind that is on its way."""
        self._count(uid, -1)
        self._assumed[uid] = node_name
        self._count(uid, 1)

    def forget_assumption(self, uid: str) -> None:
        """The bind did not happen."""
        self._count(uid, -1)
        self._assumed.pop(uid, None)
        self._count(uid, 1)

    def node_of(self, uid: str) -> str | None:
        """Where a sandbox is, or is on its way to."""
        sandbox = self.sandboxes.get(uid)
        bound = sandbox.spec.node_name if sandbox is not None else None
        return bound or self._assumed.get(uid)

    def beat(self, node_name: str, renewed: str, *, now: float) -> None:
        """Learn of a heartbeat. Only a changed renewal counts, and counts from when we saw it: clocks of nodes are not compared."""
        if self._renewals.get(node_name) != renewed:
            self._renewals[node_name] = renewed
            self.heartbeats[node_name] = now

    def is_alive(self, node_name: str, *, now: float, lost_seconds: float) -> bool:
        """Whether a node's heartbeat is young enough."""
        seen = self.heartbeats.get(node_name)
        return seen is not None and now - seen < lost_seconds

    def pending(self) -> list[Sandbox]:
        """Sandboxes without a node, oldest first."""
        waiting = [each for uid, each in self.sandboxes.items() if self.node_of(uid) is None and each.metadata.deletion_timestamp is None]
        return sorted(waiting, key=lambda each: (each.metadata.creation_timestamp or "", each.metadata.uid))

    def on_node(self, node_name: str) -> Iterator[Sandbox]:
        """Sandboxes that are bound to a node."""
        return (each for each in self.sandboxes.values() if each.spec.node_name == node_name)

    def bound_nodes(self) -> frozenset[str]:
        """Every node that a sandbox names, whether it exists or not."""
        return frozenset(each.spec.node_name for each in self.sandboxes.values() if each.spec.node_name)

    def candidates(self, *, now: float, lost_seconds: float) -> list[Candidate]:
        """The nodes for scheduling."""
        return [
            Candidate(
                node=node,
                allocated=self._usage.get(name, NodeAmounts()),
                is_alive=self.is_alive(name, now=now, lost_seconds=lost_seconds) and _is_ready(node),
            )
            for name, node in self.nodes.items()
        ]

    def _count(self, uid: str, sign: int) -> None:
        """Add (or take away) what a sandbox takes on its node; a finished one takes nothing."""
        sandbox, node_name = self.sandboxes.get(uid), self.node_of(uid)
        if sandbox is None or node_name is None or is_finished(sandbox):
            return
        used, requests = self._usage.get(node_name, NodeAmounts()), sandbox.spec.resources.requests
        self._usage[node_name] = NodeAmounts(
            cpu_millicores=used.cpu_millicores + sign * requests.cpu_millicores,
            memory_bytes=used.memory_bytes + sign * requests.memory_bytes,
            sandboxes=used.sandboxes + sign,
        )


def is_finished(sandbox: Sandbox) -> bool:
    """Whether its program has ended for good: Ready says False for a reason of an end."""
    return any(condition.type == "Ready" and condition.status == "False" and condition.reason in _FINISHED for condition in sandbox.status.conditions)


def _is_ready(node: SandboxNode) -> bool:
    return not any(condition.type == "Ready" and condition.status != "True" for condition in node.status.conditions)
