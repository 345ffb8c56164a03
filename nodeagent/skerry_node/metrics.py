"""What Prometheus reads: usage of each sandbox, read from the kernel at scrape time, and the agent's own work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skerry_node import plan, reconcile

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LABELS = ("namespace", "name")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one sandbox uses now, and has used."""

    namespace: str
    name: str
    cpu_seconds: float
    throttled_seconds: float
    working_set_bytes: int
    peak_bytes: int | None
    oom_kills: int
    pids: int
    restarts: int


class Meters:
    """The agent's instruments, in a registry of their own."""

    def __init__(self, read_usage: Callable[[], Iterable[Usage]], *, count_shells: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_UsageCollector(read_usage))
        self._starts = Histogram(
            "skerry_start_seconds", "Time from seeing a sandbox to its program running.", ("launch_type",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._reconciles = Histogram("skerry_reconcile_seconds", "Time of one reconcile.", buckets=_SECONDS, registry=self.registry)
        self._steps = Counter("skerry_plan_steps", "Steps performed.", ("step", "result"), registry=self.registry)
        self._orphans = Counter("skerry_orphans_found", "Sandboxes found that nobody wants.", registry=self.registry)
        self._keepers = Counter("skerry_keeper_starts", "Keepers started by this agent.", registry=self.registry)
        shells = Gauge("skerry_shells_ready", "Prepared shells that wait for a sandbox.", registry=self.registry)
        shells.set_function(count_shells)

    def reconciled(self, outcome: reconcile.Outcome, *, seconds: float) -> None:
        """Count one reconcile and its steps."""
        self._reconciles.observe(seconds)
        for step in outcome.steps:
            is_last = step is outcome.steps[-1]
            result = "failed" if is_last and outcome.problem is not None else "done"
            self._steps.labels(type(step).__name__, result).inc()
            if isinstance(step, plan.StartProcess) and result == "done":
                life = outcome.observed.life
                self._starts.labels("Warm" if life.is_warm else "Cold").observe(life.start_milliseconds / 1000)

    def orphan_found(self) -> None:
        """Count an orphan."""
        self._orphans.inc()

    def keeper_started(self) -> None:
        """Count a keeper."""
        self._keepers.inc()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _UsageCollector(Collector):
    """Series that exist as long as their sandbox does."""

    def __init__(self, read_usage: Callable[[], Iterable[Usage]]) -> None:
        self._read_usage = read_usage

    def collect(self) -> Iterable[Metric]:
        cpu = CounterMetricFamily("skerry_sandbox_cpu_seconds", "CPU time used.", labels=_LABELS)
        throttled = CounterMetricFamily("skerry_sandbox_cpu_throttled_seconds", "Time held back by the CPU limit.", labels=_LABELS)
        memory = GaugeMetricFamily("skerry_sandbox_memory_working_set_bytes", "Memory in use less inactive cache.", labels=_LABELS)
        peak = GaugeMetricFamily("skerry_sandbox_memory_peak_bytes", "Most memory ever in use.", labels=_LABELS)
        kills = CounterMetricFamily("skerry_sandbox_oom_kills", "Processes killed at the memory limit.", labels=_LABELS)
        pids = GaugeMetricFamily("skerry_sandbox_pids", "Processes and threads.", labels=_LABELS)
        restarts = CounterMetricFamily("skerry_sandbox_restarts", "Restarts of the program.", labels=_LABELS)
        for usage in self._read_usage():
            labels = (usage.namespace, usage.name)
            cpu.add_metric(labels, usage.cpu_seconds)
            throttled.add_metric(labels, usage.throttled_seconds)
            memory.add_metric(labels, usage.working_set_bytes)
            if usage.peak_bytes is not None:
                peak.add_metric(labels, usage.peak_bytes)
            kills.add_metric(labels, usage.oom_kills)
            pids.add_metric(labels, usage.pids)
            restarts.add_metric(labels, usage.restarts)
        return (cpu, throttled, memory, peak, kills, pids, restarts)
