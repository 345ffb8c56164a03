"""What the operator knows of the cluster, in memory, fed by events. Pure: no I/O, no clock.

Binds in flight count as done, so that two decisions never spend the same room. Answers and events may come in any order: of one
object the highest resourceVersion wins, and an object that is gone does not come back by a late answer.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skerry_api.node import NodeAmounts, SandboxNode
from skerry_api.ports import HostPort, host_ports
from skerry_api.sandbox import Sandbox
from skerry_operator import lifecycle, scheduling


@dataclass(frozen=True, slots=True)
class _Share:
    """What one sandbox takes of one node."""

    node_name: str
    cpu_millicores: int
    memory_bytes: int
    ports: frozenset[HostPort]


class Inventory:
    """Nodes, sandboxes, and who has how much of what."""

    def __init__(self) -> None:
        self._nodes: dict[str, SandboxNode] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._assumed: dict[str, str] = {}
        self._shares: dict[str, _Share] = {}
        self._given: dict[str, NodeAmounts] = {}
        self._ports: dict[str, Counter[HostPort]] = {}
        self._bound: dict[str, set[str]] = {}
        self._placed: dict[str, str] = {}
        self._unbound: dict[str, None] = {}

    def apply_node(self, node: SandboxNode) -> bool:
        """Take in a node; whether it may now take what it did not take before."""
        known = self._nodes.get(node.name)
        if known is not None and known.uid == node.uid and _is_older(node.resource_version, known.resource_version):
            return False
        self._nodes[node.name] = node
        return known is None or _offer(known) != _offer(node)

    def nodes(self) -> tuple[SandboxNode, ...]:
        """Every registered node."""
        return tuple(self._nodes.values())

    def forget_node(self, name: str) -> None:
        """The SandboxNode is gone; what is bound to it stays known."""
        self._nodes.pop(name, None)

    def apply_sandbox(self, sandbox: Sandbox) -> bool:
        """Take in a sandbox; whether it gave back room."""
        uid = sandbox.metadata.uid
        known = self._sandboxes.get(uid)
        if known is not None and _is_older(sandbox.metadata.resource_version, known.metadata.resource_version):
            return False
        self._sandboxes[uid] = sandbox
        return self._account(uid)

    def apply_answer(self, sandbox: Sandbox) -> None:
        """Take in what the API server answered to a write, unless the object is gone meanwhile."""
        if sandbox.metadata.uid in self._sandboxes:
            self.apply_sandbox(sandbox)

    def forget_sandbox(self, uid: str) -> bool:
        """The object is gone; whether that gave back room."""
        self._sandboxes.pop(uid, None)
        self._assumed.pop(uid, None)
        return self._account(uid)

    def assume(self, uid: str, node_name: str) -> None:
        """Count *uid* as bound from now on: its bind is on the way."""
        self._assumed[uid] = node_name
        self._account(uid)

    def unassume(self, uid: str) -> None:
        """The bind failed."""
        if self._assumed.pop(uid, None) is not None:
            self._account(uid)

    def is_known(self, uid: str, version: str) -> bool:
        """Whether *version* of that sandbox, or a newer one, was taken in."""
        known = self._sandboxes.get(uid)
        return known is not None and (known.metadata.resource_version == version or _is_older(version, known.metadata.resource_version))

    def find_sandbox(self, uid: str) -> Sandbox | None:
        """The newest known, or None."""
        return self._sandboxes.get(uid)

    def find_node(self, name: str) -> SandboxNode | None:
        """The newest known, or None."""
        return self._nodes.get(name)

    def uids(self) -> frozenset[str]:
        """Of all sandboxes."""
        return frozenset(self._sandboxes)

    def uids_on(self, node_name: str) -> frozenset[str]:
        """Of the sandboxes bound to a node."""
        return frozenset(self._bound.get(node_name, ()))

    def unbound_uids(self) -> tuple[str, ...]:
        """Of the sandboxes that wait for a node, the oldest first."""
        return tuple(sorted(self._unbound, key=lambda uid: (self._sandboxes[uid].metadata.creation_timestamp or "", uid)))

    def unbound(self) -> tuple[Sandbox, ...]:
        """Those that wait for a node; from any thread."""
        return tuple(sandbox for uid in tuple(self._unbound) if (sandbox := self._sandboxes.get(uid)) is not None)

    def node_names(self) -> frozenset[str]:
        """Of nodes that are registered or have sandboxes."""
        return frozenset(self._nodes) | frozenset(name for name, uids in self._bound.items() if uids)

    def candidates(self, is_alive: Callable[[str], bool]) -> Iterator[scheduling.Candidate]:
        """Every registered node, for a decision."""
        for name, node in self._nodes.items():
            yield scheduling.Candidate(
                node, given=self._given.get(name, NodeAmounts()), ports=frozenset(self._ports.get(name, ())), is_alive=is_alive(name)
            )

    def _account(self, uid: str) -> bool:
        """Bring the sums up to date for *uid*; whether room was given back."""
        sandbox = self._sandboxes.get(uid)
        node_name = None if sandbox is None else sandbox.spec.node_name or self._assumed.get(uid)
        if sandbox is not None and sandbox.spec.node_name:
            self._assumed.pop(uid, None)
        self._place(uid, node_name, is_waiting=sandbox is not None and node_name is None)
        before, after = self._shares.get(uid), None
        if sandbox is not None and node_name is not None and lifecycle.takes_room(sandbox):
            asked = sandbox.spec.resources.requests
            after = _Share(node_name, asked.cpu_millicores, asked.memory_bytes, host_ports(sandbox.spec.network.ports))
        if before == after:
            return False
        if before is not None:
            self._add(before, -1)
            del self._shares[uid]
        if after is not None:
            self._add(after, 1)
            self._shares[uid] = after
        return before is not None

    def _place(self, uid: str, node_name: str | None, *, is_waiting: bool) -> None:
        if is_waiting:
            self._unbound[uid] = None
        else:
            self._unbound.pop(uid, None)
        before = self._placed.get(uid)
        if before == node_name:
            return
        if before is not None:
            self._bound[before].discard(uid)
            del self._placed[uid]
        if node_name is not None:
            self._bound.setdefault(node_name, set()).add(uid)
            self._placed[uid] = node_name

    def _add(self, share: _Share, sign: int) -> None:
        if share.ports:  # counted: somebody else may have bound two of a kind to one node
            counts = self._ports.setdefault(share.node_name, Counter())
            counts.update(dict.fromkeys(share.ports, sign))
            self._ports[share.node_name] = +counts
        given = self._given.get(share.node_name, NodeAmounts())
        self._given[share.node_name] = dataclasses.replace(
            given,
            cpu_millicores=given.cpu_millicores + sign * share.cpu_millicores,
            memory_bytes=given.memory_bytes + sign * share.memory_bytes,
            sandboxes=given.sandboxes + sign,
        )


def _offer(node: SandboxNode) -> tuple[object, ...]:
    """The parts of a node that scheduling reads."""
    return (node.unschedulable, node.labels, node.taints, node.status.allocatable, node.status.features, scheduling.is_ready(node))


def _is_older(version: str, than: str) -> bool:
    """Versions of one resource are comparable numbers (KEP-5504); empty ones are never older."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
