"""The metrics of the operator and of the gateway, and how instruments are made of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from skerry_api.metric import COUNTER, GAUGE, HISTOGRAM, LAUNCH_BUCKETS, REQUEST_BUCKETS, STREAM_BUCKETS, Metric

_SUBRESOURCES = ("subresource", "`exec`, `attach`, `logs`, `stats` and the others of the API")
_API_VALUES = (("code", "the HTTP status; 0: none was answered"),)

BINDS = Metric("skerry_operator_binds_total", COUNTER, "Sandboxes bound to a node.")
BIND_SECONDS = Metric("skerry_operator_bind_seconds", HISTOGRAM, "Time from the event of a sandbox to the answered bind.", buckets=LAUNCH_BUCKETS)
SCHEDULE_SECONDS = Metric(
    "skerry_operator_schedule_seconds", HISTOGRAM, "Time of one choice of a node, without any request.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
)  # fmt: skip
PENDING = Metric(
    "skerry_operator_pending_sandboxes", GAUGE, "Sandboxes that wait for a node, by what keeps most nodes from it.", ("reason",),
    values=(("reason", "`InsufficientCpu`, `TooManySandboxes`, `Tainted`, `Selector`, `NotReady`, `Lost`, `NoNodes` and the like"),),
)  # fmt: skip
OLDEST = Metric("skerry_operator_oldest_pending_seconds", GAUGE, "How long the oldest of these has waited; 0 when none waits.")
SANDBOXES = Metric("skerry_operator_sandboxes", GAUGE, "Sandboxes in the cluster.")
NODES = Metric("skerry_operator_nodes", GAUGE, "Nodes that are registered.")
LOST_NODES = Metric("skerry_operator_lost_nodes", GAUGE, "Nodes whose heartbeat is not heard.")
LEADER = Metric("skerry_operator_leader", GAUGE, "1 in the replica that holds the Lease and writes, else 0.")
EXPIRED = Metric("skerry_operator_expired_total", COUNTER, "Objects deleted because their time was over.")
FAILURES = Metric("skerry_operator_failed_writes_total", COUNTER, "Writes that the API server did not take.", ("kind",))
API_REQUESTS = Metric(
    "skerry_operator_api_request_seconds", HISTOGRAM, "Time of one request to the API server.", ("method", "code"), values=_API_VALUES,
    buckets=REQUEST_BUCKETS,
)  # fmt: skip

STREAMS = Metric("skerry_gateway_streams", GAUGE, "Streams that are open.", ("subresource",), values=(_SUBRESOURCES,))
REQUESTS = Metric(
    "skerry_gateway_requests_total", COUNTER, "Requests for streams.", ("subresource", "outcome"),
    values=(_SUBRESOURCES, ("outcome", "`allowed`; `refused`: who asked may not; `failed`: for any other reason")),
)  # fmt: skip
STREAM_SECONDS = Metric(
    "skerry_gateway_stream_seconds", HISTOGRAM, "How long streams lasted.", ("subresource",), values=(_SUBRESOURCES,), buckets=STREAM_BUCKETS
)
GATEWAY_CERTIFICATES = Metric(
    "skerry_certificate_expiry_timestamp_seconds", GAUGE, "When a certificate ends, since 1970.", ("certificate",),
    values=(("certificate", "`gateway`: of the door for the API server; `gateway-client`: shown to agents"),),
)  # fmt: skip

OPERATOR = (
    BINDS, BIND_SECONDS, SCHEDULE_SECONDS, PENDING, OLDEST, SANDBOXES, NODES, LOST_NODES, LEADER, EXPIRED, FAILURES, API_REQUESTS,
)  # fmt: skip
GATEWAY = (STREAMS, REQUESTS, STREAM_SECONDS, GATEWAY_CERTIFICATES)


def counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    """An instrument."""
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=registry)


def gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    """An instrument."""
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)


def histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    """An instrument."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
