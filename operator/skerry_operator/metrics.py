"""What Prometheus reads of the operator."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BINDS = Counter("skerry_operator_binds", "Sandboxes bound to a node.")
PENDING = Gauge("skerry_operator_pending", "Sandboxes that wait for a node.")
DECISIONS = Histogram("skerry_operator_decision_seconds", "Time of one scheduling decision.", buckets=(0.0001, 0.0005, 0.001, 0.005, 0.02, 0.1))
