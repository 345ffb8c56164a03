"""The SandboxNode resource as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api import conditions, names, quantities
from skerry_api.conditions import Condition


@dataclass(frozen=True, slots=True)
class NodeAmounts:
    """What a node has, can give, or has given."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    pids: int = 0
    sandboxes: int = 0


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps sandboxes without a matching toleration away."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class NodeImage:
    """An image that the node holds."""

    reference: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """How far the node is with a SandboxImage that wants something of it, at *generation* of its spec.

    *state* is Pulling, Pulled, Building, Built or Failed; *digest* and *size_bytes* are known once it is here.
    """

    uid: str
    object: str
    """NAMESPACE/NAME, for people."""
    generation: int
    state: str
    digest: str = ""
    size_bytes: int = 0
    message: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the node holds it."""
        return self.state in {"Pulled", "Built"}


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What the agent says of its node."""

    capacity: NodeAmounts = NodeAmounts()
    allocatable: NodeAmounts = NodeAmounts()
    allocated: NodeAmounts = NodeAmounts()
    address: str | None = None
    port: int | None = None
    versions: tuple[tuple[str, str], ...] = ()
    features: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    images: tuple[NodeImage, ...] = ()
    prepared: tuple[PreparedImage, ...] | None = None
    """None: not known yet, what the object says stands."""


@dataclass(frozen=True, slots=True)
class SandboxNode:
    """The whole object."""

    name: str
    unschedulable: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    status: NodeStatus = NodeStatus()
    uid: str = ""
    resource_version: str = ""


def parse_node(raw: Mapping[str, Any]) -> SandboxNode:
    """A SandboxNode from JSON."""
    metadata, spec = raw.get("metadata") or {}, raw.get("spec") or {}
    return SandboxNode(
        name=metadata.get("name", ""),
        unschedulable=bool(spec.get("unschedulable", False)),
        labels=tuple(sorted((metadata.get("labels") or {}).items())),
        taints=tuple(
            Taint(key=each.get("key", ""), value=each.get("value", ""), effect=each.get("effect", "NoSchedule")) for each in spec.get("taints") or ()
        ),
        status=_parse_status(raw.get("status") or {}),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
    )


def render_status(status: NodeStatus) -> dict[str, Any]:
    """The status as JSON."""
    return {
        "capacity": _render_amounts(status.capacity),
        "allocatable": _render_amounts(status.allocatable),
        "allocated": _render_amounts(status.allocated),
        "address": status.address,
        "port": status.port,
        "versions": dict(status.versions),
        "features": list(status.features),
        "conditions": [conditions.render_condition(each) for each in status.conditions],
        "images": [{"reference": each.reference, "digest": each.digest, "sizeBytes": each.size_bytes} for each in status.images],
        **({} if status.prepared is None else {"prepared": [_render_prepared(each) for each in status.prepared]}),
    }


def _render_prepared(prepared: PreparedImage) -> dict[str, Any]:
    return {
        "uid": prepared.uid,
        "object": prepared.object,
        "generation": prepared.generation,
        "state": prepared.state,
        "digest": prepared.digest,
        "sizeBytes": prepared.size_bytes,
        "message": prepared.message,
    }


def _parse_prepared(raw: Mapping[str, Any]) -> PreparedImage:
    return PreparedImage(
        uid=str(raw.get("uid", "")),
        object=str(raw.get("object", "")),
        generation=int(raw.get("generation") or 0),
        state=str(raw.get("state", "")),
        digest=str(raw.get("digest", "")),
        size_bytes=int(raw.get("sizeBytes") or 0),
        message=str(raw.get("message", "")),
    )


def render_node(node: SandboxNode) -> dict[str, Any]:
    """The whole object as JSON."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.NODE_KIND,
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "spec": {"unschedulable": node.unschedulable},
        "status": render_status(node.status),
    }


def _parse_status(raw: Mapping[str, Any]) -> NodeStatus:
    return NodeStatus(
        capacity=_parse_amounts(raw.get("capacity") or {}),
        allocatable=_parse_amounts(raw.get("allocatable") or {}),
        allocated=_parse_amounts(raw.get("allocated") or {}),
        address=raw.get("address"),
        port=raw.get("port"),
        versions=tuple(sorted((raw.get("versions") or {}).items())),
        features=tuple(raw.get("features") or ()),
        conditions=tuple(conditions.parse_condition(each) for each in raw.get("conditions") or ()),
        images=tuple(NodeImage(reference=each["reference"], digest=each["digest"], size_bytes=each["sizeBytes"]) for each in raw.get("images") or ()),
        prepared=tuple(_parse_prepared(each) for each in raw.get("prepared") or ()),
    )


def _parse_amounts(raw: Mapping[str, Any]) -> NodeAmounts:
    return NodeAmounts(
        cpu_millicores=quantities.parse_cpu_millicores(raw.get("cpu", 0)),
        memory_bytes=quantities.parse_memory_bytes(raw.get("memory", 0)),
        pids=int(raw.get("pids", 0)),
        sandboxes=int(raw.get("sandboxes", 0)),
    )


def _render_amounts(amounts: NodeAmounts) -> dict[str, Any]:
    return {
        "cpu": quantities.render_cpu(amounts.cpu_millicores),
        "memory": quantities.render_memory(amounts.memory_bytes),
        "pids": amounts.pids,
        "sandboxes": amounts.sandboxes,
    }
