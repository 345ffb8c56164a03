"""What the gateway counts, for Prometheus."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from skerry_api import streaming
from skerry_operator import catalogue

_OTHER = "other"
"""What somebody asked for that is no subresource of ours: labels have no values that a caller makes up."""


class Meters:
    """One set per process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._streams = catalogue.gauge(catalogue.STREAMS, registry)
        self._requests = catalogue.counter(catalogue.REQUESTS, registry)
        self._seconds = catalogue.histogram(catalogue.STREAM_SECONDS, registry)
        self._certificates = catalogue.gauge(catalogue.GATEWAY_CERTIFICATES, registry)

    def answered(self, subresource: str, outcome: str) -> None:
        """Count a request that was `allowed`, `refused` or `failed`."""
        self._requests.labels(_known(subresource), outcome).inc()

    @contextlib.contextmanager
    def stream(self, subresource: str) -> Iterator[None]:
        """Count a stream while it is open."""
        began, name = time.monotonic(), _known(subresource)
        self._streams.labels(name).inc()
        try:
            yield
        finally:
            self._streams.labels(name).dec()
            self._seconds.labels(name).observe(time.monotonic() - began)

    def certified(self, certificate: str, ends_at: float) -> None:
        """A certificate ends at *ends_at*, seconds since 1970."""
        self._certificates.labels(certificate).set(ends_at)

    def serve(self, port: int) -> None:
        """Answer scrapes on *port*, in a thread of its own."""
        start_http_server(port, registry=self.registry)


def _known(subresource: str) -> str:
    return subresource if subresource in streaming.VERBS else _OTHER
