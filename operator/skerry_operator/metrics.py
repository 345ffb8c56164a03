"""What the operator counts, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from skerry_operator import catalogue


class Metrics:
    """One set per process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.binds = catalogue.counter(catalogue.BINDS, registry)
        self.bind_seconds = catalogue.histogram(catalogue.BIND_SECONDS, registry)
        self.schedule_seconds = catalogue.histogram(catalogue.SCHEDULE_SECONDS, registry)
        self.sandboxes = catalogue.gauge(catalogue.SANDBOXES, registry)
        self.nodes = catalogue.gauge(catalogue.NODES, registry)
        self.lost_nodes = catalogue.gauge(catalogue.LOST_NODES, registry)
        self.leader = catalogue.gauge(catalogue.LEADER, registry)
        self.expired = catalogue.counter(catalogue.EXPIRED, registry)
        self.failures = catalogue.counter(catalogue.FAILURES, registry)
        self._api_requests = catalogue.histogram(catalogue.API_REQUESTS, registry)

    def api_answered(self, method: str, code: int, seconds: float) -> None:
        """Count a request to the API server; code 0: no answer."""
        self._api_requests.labels(method, str(code)).observe(seconds)

    def watch_pending(self, read: Callable[[], Iterable[tuple[str, float]]]) -> None:
        """Tell at each scrape of those that wait: the reason and the seconds of each, by *read*."""
        self.registry.register(_Pending(read))

    def serve(self, port: int) -> None:
        """Answer scrapes on *port*, in a thread of its own."""
        start_http_server(port, registry=self.registry)


class _Pending(Collector):
    def __init__(self, read: Callable[[], Iterable[tuple[str, float]]]) -> None:
        self._read = read

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is asked for at registration."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Those that wait now."""
        waiting = list(self._read())
        family = GaugeMetricFamily(catalogue.PENDING.name, catalogue.PENDING.help, labels=catalogue.PENDING.labels)
        for reason, count in sorted(Counter(reason for reason, _ in waiting).items()):
            family.add_metric([reason], count)
        yield family
        yield GaugeMetricFamily(catalogue.OLDEST.name, catalogue.OLDEST.help, value=max((seconds for _, seconds in waiting), default=0.0))
