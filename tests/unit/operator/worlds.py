"""Sandboxes and nodes for the operator's tables."""

from __future__ import annotations

import datetime
from typing import Any

from skerry_api import names
from skerry_api.conditions import Condition
from skerry_api.node import NodeAmounts, NodeStatus, SandboxNode, Taint
from skerry_api.sandbox import (
    Amounts,
    DesiredState,
    Metadata,
    OnIdle,
    Resources,
    RestartPolicy,
    Sandbox,
    SandboxSpec,
    SandboxStatus,
    Termination,
    TerminationReason,
    Toleration,
    Ttl,
)

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)
MIB = 1 << 20


def node(
    name: str = "a",
    *,
    cpu: int = 1000,
    memory: int = 1000 * MIB,
    count: int = 10,
    ready: str = "True",
    reason: str = "Ok",
    version: str = "1",
    **rest: Any,
) -> SandboxNode:
    """A node that takes sandboxes."""
    conditions = (Condition("Ready", ready, reason),) if ready else ()
    status = NodeStatus(allocatable=NodeAmounts(cpu_millicores=cpu, memory_bytes=memory, sandboxes=count), conditions=conditions)
    return SandboxNode(name=name, status=status, uid=f"uid-{name}", resource_version=version, **rest)


def spec(cpu: int = 0, memory: int = 0, **rest: Any) -> SandboxSpec:
    """What is wanted."""
    return SandboxSpec(image="busybox", resources=Resources(requests=Amounts(cpu_millicores=cpu, memory_bytes=memory)), **rest)


def sandbox(
    uid: str = "u",
    *,
    node_name: str | None = "a",
    cpu: int = 100,
    memory: int = 0,
    version: str = "1",
    finalizers: tuple[str, ...] = (names.FINALIZER,),
    deleted: bool = False,
    ready: tuple[str, str] | None = ("True", "Running"),
    scheduled: str | None = "True",
    end: TerminationReason | None = None,
    exit_code: int | None = None,
    ended_ago: float = 10,
    stays: int | None = None,
    delete_idle: bool = False,
    policy: RestartPolicy = RestartPolicy.NEVER,
    desired: DesiredState = DesiredState.RUNNING,
    created: str = "2026-01-01T00:00:00Z",
) -> Sandbox:
    """A sandbox that runs on node a, unless told otherwise."""
    finished = (NOW - datetime.timedelta(seconds=ended_ago)).isoformat().replace("+00:00", "Z")
    conditions = [] if scheduled is None else [Condition("Scheduled", scheduled, "Bound" if scheduled == "True" else "Unschedulable", "why not")]
    if ready is not None:
        conditions.append(Condition("Ready", *ready, last_transition_time="2026-01-01T00:00:00Z"))
    return Sandbox(
        metadata=Metadata(
            name=uid,
            uid=uid,
            resource_version=version,
            finalizers=finalizers,
            creation_timestamp=created,
            deletion_timestamp="2026-01-01T11:00:00Z" if deleted else None,
        ),
        spec=spec(
            cpu,
            memory,
            node_name=node_name,
            restart_policy=policy,
            desired_state=desired,
            ttl=Ttl(seconds_after_finished=stays, on_idle=OnIdle.DELETE if delete_idle else OnIdle.PAUSE),
        ),
        status=SandboxStatus(
            conditions=tuple(conditions),
            restarts=2,
            termination=Termination(end, exit_code=exit_code, finished_at=finished) if end is not None else None,
        ),
    )


__all__ = ["MIB", "NOW", "NodeAmounts", "Taint", "Toleration", "node", "sandbox", "spec"]
