"""What the gateway is told when it starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    kubeconfig: str | None = None
    system_namespace: str = "skerry-system"
    """Where its keys, the agents' trust and its Service are."""
    listen: str = ":8443"
    service: str = "skerry-gateway"
    """The Service that the APIService names."""
    agent_account: str = ""
    """Whose signing requests are granted; empty: `skerry-agent` of the system namespace."""
    key_days: float = 60.0
    max_streams: int = 2000
    metrics_port: int = 0
    """0: no metrics."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that the API server calls it by."""
        return (f"{self.service}.{self.system_namespace}.svc",)

    @property
    def account(self) -> str:
        """The agents' user name."""
        return self.agent_account or f"system:serviceaccount:{self.system_namespace}:skerry-agent"


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line; --help and mistakes end the process as argparse does."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="skerry-gateway",
        description="Serves stream.skerry.dev behind the API server: logs, stats, exec, attach, cp and portforward of Sandboxes.",
        epilog="example: skerry-gateway --kubeconfig ~/.kube/config --listen 127.0.0.1:8443",
    )
    parser.add_argument("--kubeconfig", help="default: $KUBECONFIG, else the pod's own account, else ~/.kube/config")
    parser.add_argument("--system-namespace", default=default.system_namespace, help="where keys and Service are; default: %(default)s")
    parser.add_argument("--listen", default=default.listen, help="host:port for the API server; default: %(default)s, on all addresses")
    parser.add_argument("--service", default=default.service, help="the Service that leads here; default: %(default)s")
    parser.add_argument(
        "--agent-account", default="", help="user whose certificates are signed; default: the ServiceAccount skerry-agent of the system namespace"
    )
    parser.add_argument("--key-days", type=float, default=default.key_days, help="age at which keys are replaced; default: %(default)g")
    parser.add_argument("--max-streams", type=int, default=default.max_streams, help="streams at once; default: %(default)s")
    parser.add_argument("--metrics-port", type=int, default=default.metrics_port, help="Prometheus metrics on this port; 0, the default: none")
    given = parser.parse_args(arguments)
    _, colon, port = given.listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        parser.error(f"--listen {given.listen}: write host:port")
    if given.key_days <= 0 or given.max_streams < 1:
        parser.error("--key-days and --max-streams are above 0")
    return Settings(**vars(given))
