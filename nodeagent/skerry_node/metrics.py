"""The agent's instruments: its own work as it happens, and the text of everything at scrape time.

Names follow Prometheus' conventions: base units, `_total` on what only grows. Labels are bounded: a sandbox's series end with it, and
the others have as many values as this program has kinds of steps, requests and reasons.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from skerry_api.metric import COUNTER, GAUGE, Metric
from skerry_node import reconcile, steps
from skerry_node.metering import catalogue, series

Readings = Mapping[Metric, Mapping[tuple[str, ...], float]]
"""Values of gauges that are read at scrape time, by the values of their labels; none where there is nothing to tell."""


class Meters:
    """In a registry of their own. `render` may run in a thread; two at once take turns.

    *read_samples* reads every sandbox, *read_gauges* all else that is read only when somebody asks.
    """

    def __init__(self, read_samples: Callable[[], Iterable[series.Sample]], read_gauges: Callable[[], Readings] = dict) -> None:
        self._read_samples = read_samples
        self._lock = threading.Lock()
        self._series = series.Text()
        self._last_seconds = 0.0
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._starts, self._stages = self._histogram(catalogue.STARTS), self._histogram(catalogue.STAGES)
        self._start_failures, self._ends = self._counter(catalogue.START_FAILURES), self._counter(catalogue.ENDS)
        self._queue, self._reconciles = self._histogram(catalogue.QUEUE), self._histogram(catalogue.RECONCILES)
        self._steps, self._step_seconds = self._counter(catalogue.STEPS), self._histogram(catalogue.STEP_SECONDS)
        self._orphans, self._keepers = self._counter(catalogue.ORPHANS), self._counter(catalogue.KEEPER_STARTS)
        self._keeper_requests, self._api_requests = self._histogram(catalogue.KEEPER_REQUESTS), self._histogram(catalogue.API_REQUESTS)
        self._pulls, self._pulled = self._histogram(catalogue.PULLS), self._counter(catalogue.PULLED)
        self._collected = self._counter(catalogue.COLLECTED)
        Gauge(catalogue.SCRAPE.name, catalogue.SCRAPE.help, registry=self.registry).set_function(lambda: self._last_seconds)
        self.registry.register(_Gauges(read_gauges))

    def reconciled(self, outcome: reconcile.Outcome, *, seconds: float, queued_seconds: float | None = None) -> None:
        """Count one reconcile, its steps, and what they came to."""
        has_failed = outcome.problem is not None and bool(outcome.steps)
        self._reconciles.labels("failed" if has_failed else "done").observe(seconds)
        if queued_seconds is not None:
            self._queue.observe(queued_seconds)
        for step in outcome.steps:
            is_last = step is outcome.steps[-1]
            result = "failed" if is_last and outcome.problem is not None else "done"
            self._steps.labels(type(step).__name__, result).inc()
            if isinstance(step, steps.StartProcess) and result == "failed" and outcome.problem is not None:
                self._start_failures.labels(outcome.problem.reason).inc()
            elif isinstance(step, steps.RecordEnd) and result == "done" and outcome.observed.life.termination is not None:
                self._ends.labels(outcome.observed.life.termination.reason.value).inc()

    def step_done(self, name: str, seconds: float) -> None:
        """A step of a plan took so long, whatever it came to."""
        self._step_seconds.labels(name).observe(seconds)

    def started(self, launch_type: str, *, prepare: float, request: float, keeper: float) -> None:
        """A program runs, after so many seconds in each stage."""
        self._starts.labels(launch_type).observe(prepare + request)
        for stage, seconds in (("prepare", prepare), ("request", request), ("keeper", keeper)):
            self._stages.labels(stage).observe(seconds)

    def orphan_found(self) -> None:
        """Count an orphan."""
        self._orphans.inc()

    def keeper_started(self) -> None:
        """Count a keeper."""
        self._keepers.inc()

    def keeper_answered(self, request: str, seconds: float, is_done: bool) -> None:  # noqa: FBT001 - the keeper client's callback
        """Count a request to the keeper."""
        self._keeper_requests.labels(request, "done" if is_done else "failed").observe(seconds)

    def api_answered(self, method: str, code: int, seconds: float) -> None:
        """Count a request to the API server; code 0: no answer."""
        self._api_requests.labels(method, str(code)).observe(seconds)

    def pulled(self, result: str, seconds: float, moved_bytes: int) -> None:
        """Count a pull."""
        self._pulls.labels(result).observe(seconds)
        self._pulled.inc(moved_bytes)

    def collected(self, count: int) -> None:
        """Count images that went because the disk was nearly full."""
        self._collected.inc(count)

    def render(self) -> bytes:
        """The text that Prometheus reads, exposition format 0.0.4."""
        with self._lock:
            began = time.perf_counter()
            text = generate_latest(self.registry) + self._series.render(self._read_samples()).encode()
            self._last_seconds = time.perf_counter() - began
            return text

    def _counter(self, metric: Metric) -> Counter:
        assert metric.kind == COUNTER
        return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry)


class _Gauges(Collector):
    """Gauges that are read when somebody asks."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is asked for at registration."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All that is known now."""
        for metric, values in self._read().items():
            assert metric.kind == GAUGE
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
