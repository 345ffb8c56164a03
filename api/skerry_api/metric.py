"""What a metric is, as a value: programs make their instruments of these, and docs/metrics.md is written from them. Pure.

Names follow Prometheus' conventions: base units, `_total` on what only grows.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
LAUNCH_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: a launch takes 2 to 10 ms, one under load up to seconds."""
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: a request to the keeper or to the API server; the latter gives up after ten."""
TRANSFER_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: a pull."""
STREAM_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0)
"""Seconds: a stream, from one short command to a terminal that stays open for hours."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. *values* lists what each label may be, where that is a short list; *condition* says when there are no samples."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    buckets: tuple[float, ...] = ()
    condition: str = ""
