"""What Prometheus reads: usage of each sandbox, read from the kernel at scrape time, and the agent's own work.

Names follow Prometheus' conventions: base units, `_total` on what only grows. Labels are bounded: a sandbox's series end with it, and
the others have as many values as this program has kinds of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from skerry_node import plan, reconcile

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


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
    """The agent's instruments, in a registry of their own. May be rendered in a thread.

    *watch_age* says how many seconds ago the API server last spoke; None when there is no API server.
    """

    def __init__(
        self,
        read_usage: Callable[[], Iterable[Usage]],
        *,
        count_shells: Callable[[], int],
        watch_age: Callable[[], float] | None = None,
    ) -> None:
        self._read_usage = read_usage
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
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
        if watch_age is not None:
            age = Gauge("skerry_watch_age_seconds", "Time since the API server last spoke on the watch.", registry=self.registry)
            age.set_function(watch_age)

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
        """The text that Prometheus reads, exposition format 0.0.4."""
        return generate_latest(self.registry) + render_usage(self._read_usage()).encode()


_SERIES: tuple[tuple[str, str, str, Callable[[Usage], float | None]], ...] = (
    ("skerry_sandbox_cpu_seconds_total", "counter", "CPU time used.", lambda usage: usage.cpu_seconds),
    ("skerry_sandbox_cpu_throttled_seconds_total", "counter", "Time held back by the CPU limit.", lambda usage: usage.throttled_seconds),
    ("skerry_sandbox_memory_working_set_bytes", "gauge", "Memory in use less inactive cache.", lambda usage: usage.working_set_bytes),
    ("skerry_sandbox_memory_peak_bytes", "gauge", "Most memory ever in use.", lambda usage: usage.peak_bytes),
    ("skerry_sandbox_oom_kills_total", "counter", "Processes killed at the memory limit.", lambda usage: usage.oom_kills),
    ("skerry_sandbox_pids", "gauge", "Processes and threads.", lambda usage: usage.pids),
    ("skerry_sandbox_restarts_total", "counter", "Restarts of the program.", lambda usage: usage.restarts),
)


def render_usage(usages: Iterable[Usage]) -> str:
    """The series of *usages*. Written here, because the library takes 50 ms for 1,000 sandboxes (measured) and this a tenth of it.

    Namespaces and names are DNS names: nothing in them needs escaping.
    """
    families: list[list[str]] = [[f"# HELP {name} {text}\n# TYPE {name} {kind}"] for name, kind, text, _ in _SERIES]
    for usage in usages:
        labels = f'{{namespace="{usage.namespace}",name="{usage.name}"}}'
        for family, (name, _, _, read) in zip(families, _SERIES, strict=True):
            value = read(usage)
            if value is not None:
                family.append(f"{name}{labels} {value}")
    return "\n".join(line for family in families for line in family) + "\n"
