"""The operator's settings: one frozen value made in `__main__`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are seconds. A node without a heartbeat for `node_lost_seconds` is lost; the Lease makes one operator the writer."""

    identity: str
    kubeconfig: str | None = None
    system_namespace: str = "skerry-system"
    node_lost_seconds: float = 40.0
    lease_seconds: float = 15.0
    sweep_seconds: float = 1.0
    metrics_port: int = 0
