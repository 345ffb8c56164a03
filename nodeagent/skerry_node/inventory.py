"""What this node can take, for its SandboxNode: read from the kernel once, counted from the sandboxes that are wanted here."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

from skerry_api import names
from skerry_api.conditions import Condition
from skerry_api.node import NodeAmounts, NodeImage, NodeStatus, PreparedImage, SandboxNode
from skerry_api.sandbox import Sandbox
from skerry_node.image.store import Image
from skerry_node.keeper import init_binary
from skerry_node.settings import MAX_SLOTS, Settings

VERSION = "0.1.0"
MAX_SANDBOXES = 1000
"""What one node has been measured with."""
_RESERVED_MEMORY_BYTES, _RESERVED_MILLICORES = 256 << 20, 100
"""Kept for the agent, the keeper and the host."""
_MAX_IMAGES = 50


def describe(
    settings: Settings,
    sandboxes: Iterable[Sandbox],
    images: Iterable[Image],
    *,
    cgroup_version: int,
    has_freezer: bool = True,
    endpoint: tuple[str, int] | None,
    now: str,
    prepared: tuple[PreparedImage, ...] | None = None,
) -> SandboxNode:
    """The node's object. Requests of every sandbox bound here are allocated, whether it runs or not. *endpoint* is the gateway's door."""
    address, port = endpoint or (None, None)
    capacity = _capacity(settings)
    wanted = list(sandboxes)
    ready = Condition(type="Ready", status="True", reason="AgentReady", message="", last_transition_time=now)
    supported = Condition(type="KernelSupported", status="True", reason="Supported", message=platform.release(), last_transition_time=now)
    largest = sorted(images, key=lambda image: (-image.size_bytes, image.reference))[:_MAX_IMAGES]
    return SandboxNode(
        name=settings.node_name,
        labels=((names.HOSTNAME_LABEL, settings.node_name), ("kubernetes.io/arch", platform.machine())),
        status=NodeStatus(
            capacity=capacity,
            allocatable=NodeAmounts(
                cpu_millicores=max(capacity.cpu_millicores - _RESERVED_MILLICORES, 0),
                memory_bytes=max(capacity.memory_bytes - _RESERVED_MEMORY_BYTES, 0),
                pids=capacity.pids,
                sandboxes=capacity.sandboxes,
            ),
            allocated=NodeAmounts(
                cpu_millicores=sum(each.spec.resources.requests.cpu_millicores for each in wanted),
                memory_bytes=sum(each.spec.resources.requests.memory_bytes for each in wanted),
                sandboxes=len(wanted),
            ),
            address=address,
            port=port,
            versions=(("agent", VERSION), ("kernel", platform.release())),
            features=_features(settings, cgroup_version, has_freezer=has_freezer),
            conditions=(ready, supported),
            images=tuple(NodeImage(reference=each.reference, digest=each.digest, size_bytes=each.size_bytes) for each in largest),
            prepared=prepared,
        ),
    )


def _features(settings: Settings, cgroup_version: int, *, has_freezer: bool) -> tuple[str, ...]:
    """What sandboxes may need of a node, sorted; the operator binds by them (its `fitness`)."""
    found = {f"cgroup-v{cgroup_version}", "idmapped-mounts", "nftables", "overlay", "seccomp"}
    if has_freezer:
        found.add("freezer")
    if settings.allow_host_network:
        found.add("host-network")
    if os.uname().machine in init_binary.PROGRAMS:
        found.add("init")
    return tuple(sorted(found))


def _capacity(settings: Settings) -> NodeAmounts:
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) * 1024
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        pids = int(file.read())
    slots = min(settings.network.num_addresses - 3, MAX_SLOTS)
    return NodeAmounts(cpu_millicores=(os.cpu_count() or 1) * 1000, memory_bytes=memory, pids=pids, sandboxes=min(slots, MAX_SANDBOXES))
