"""What the operator counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_BIND_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048)


class Metrics:
    """One set per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.binds = Counter("skerry_operator_binds", "Sandboxes bound to a node.", registry=self.registry)
        self.bind_seconds = Histogram(
            "skerry_operator_bind_seconds", "From the event to the answered bind.", registry=self.registry, buckets=_BIND_BUCKETS
        )
        self.pending = Gauge("skerry_operator_pending_sandboxes", "Sandboxes that wait for a node.", registry=self.registry)
        self.lost_nodes = Gauge("skerry_operator_lost_nodes", "Nodes whose heartbeat is not heard.", registry=self.registry)
        self.expired = Counter("skerry_operator_expired", "Objects deleted because their time was over.", registry=self.registry)
        self.failures = Counter("skerry_operator_failed_writes", "Writes that the API server did not take.", ["kind"], registry=self.registry)

    def serve(self, port: int) -> None:
        """Answer scrapes on *port*, in a thread of its own."""
        start_http_server(port, registry=self.registry)
