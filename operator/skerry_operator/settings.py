"""What the operator is told when it starts."""

from __future__ import annotations

import argparse
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it; durations in seconds."""

    kubeconfig: str | None = None
    """None: $KUBECONFIG, else the pod's own account, else ~/.kube/config."""
    system_namespace: str = "skerry-system"
    """Where the Leases of nodes and of the operator are."""
    metrics_port: int = 0
    """0: no metrics."""
    health_port: int = 0
    """0: no door for probes."""
    node_lost_seconds: float = 40.0
    """Four heartbeats of an agent, as kubelets have."""
    lease_seconds: float = 15.0
    """How long a replica that fell silent still holds its Lease; client-go's default."""
    identity: str = ""
    """Who holds the Lease; two processes alive at once never share it."""
    resync_seconds: float = 300.0
    """How often what is known is compared with a complete list: a watch that restarts tells of no deletions."""

    @property
    def heartbeat_poll_seconds(self) -> float:
        """How often the nodes' Leases are read: often enough that a loss is seen an eighth late at most."""
        return max(self.node_lost_seconds / 8, 0.25)


def parse(arguments: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; --help and mistakes end the process as argparse does."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="skerry-operator",
        description="Binds Sandboxes to SandboxNodes, expires them, and declares nodes lost.",
        epilog="example: skerry-operator --kubeconfig ~/.kube/config --metrics-port 9464",
    )
    parser.add_argument("--kubeconfig", help="default: $KUBECONFIG, else the pod's own account, else ~/.kube/config")
    parser.add_argument("--system-namespace", default=default.system_namespace, help="where Leases are; default: %(default)s")
    parser.add_argument("--metrics-port", type=int, default=default.metrics_port, help="Prometheus metrics on this port; 0, the default: none")
    parser.add_argument("--health-port", type=int, default=default.health_port, help="/healthz and /readyz on this port; 0, the default: none")
    parser.add_argument(
        "--node-lost-seconds", type=float, default=default.node_lost_seconds, help="silence after which a node is lost; default: %(default)s"
    )
    parser.add_argument(
        "--lease-seconds", type=float, default=default.lease_seconds, help="silence after which another replica takes over; default: %(default)s"
    )
    parser.add_argument(
        "--identity", help="name of this replica; default: $POD_NAME, else one made up. A restart with the same identity takes over at once"
    )
    parser.add_argument("--resync-seconds", type=float, default=default.resync_seconds, help="time between complete lists; default: %(default)s")
    given = parser.parse_args(arguments)
    if min(given.node_lost_seconds, given.lease_seconds, given.resync_seconds) < 1:
        parser.error("durations are at least 1 second")
    identity = given.identity or environ.get("POD_NAME") or f"{socket.gethostname()}_{uuid.uuid4()}"
    return Settings(**{**vars(given), "identity": identity})
