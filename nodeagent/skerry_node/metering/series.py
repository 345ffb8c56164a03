"""The metrics of each sandbox: which there are, and their text.

The text is written here, because the library takes 50 ms for 1,000 sandboxes and seven metrics (measured) and this a tenth of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from skerry_api.metric import COUNTER, GAUGE, Metric
from skerry_api.sandbox import Sandbox
from skerry_node.cgroup.scanning import Counters
from skerry_node.model import Life
from skerry_node.network.traffic import Traffic

LABELS = ("namespace", "name", "node")
_IO = "where the kernel counts them: version 2 of control groups"
_LIMIT = "where there is a limit"
_BRIDGE = "with `network.mode: Bridge`"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sandbox at the moment of a scrape. Without a living program there are no *counted* and no *traffic*."""

    sandbox: Sandbox
    node: str
    life: Life
    phase: str
    counted: Counters | None = None
    traffic: Traffic | None = None
    denied: int | None = None
    """Packets that its policy or its pins refused."""
    disk_bytes: int | None = None


Read = Callable[[Sample], float | None]
_Many = Callable[[Sample], Iterable[tuple[str, float]]]


def _of_counters(name: str) -> Read:
    def read(sample: Sample) -> float | None:
        return None if sample.counted is None else getattr(sample.counted, name)

    return read


def _of_traffic(name: str) -> Read:
    def read(sample: Sample) -> float | None:
        return None if sample.traffic is None else getattr(sample.traffic, name)

    return read


def _limit(name: str, divisor: int) -> Read:
    def read(sample: Sample) -> float | None:
        value = getattr(sample.sandbox.spec.resources.limits, name)
        return None if value is None else value / divisor

    return read


def _started(sample: Sample) -> float | None:
    return sample.life.started_ns / 1e9 if sample.life.started_ns else None


def _start_seconds(sample: Sample) -> float | None:
    return sample.life.start_milliseconds / 1e3 if sample.life.started_ns else None


def _metric(name: str, kind: str, help_text: str, *labels: str, condition: str = "") -> Metric:
    return Metric(f"skerry_sandbox_{name}", kind, help_text, (*LABELS, *labels), condition=condition)


PLAIN: tuple[tuple[Metric, Read], ...] = (
    (_metric("restarts_total", COUNTER, "Restarts of the program."), lambda sample: sample.life.restarts),
    (_metric("start_duration_seconds", GAUGE, "How long its last start took.", condition="once it has started"), _start_seconds),
    (_metric("started_timestamp_seconds", GAUGE, "When it was last started, since 1970.", condition="once it has started"), _started),
    (_metric("cpu_seconds_total", COUNTER, "CPU time used."), _of_counters("cpu_seconds")),
    (_metric("cpu_periods_total", COUNTER, "Periods of 100 ms in which it ran under a CPU limit."), _of_counters("periods")),
    (_metric("cpu_throttled_periods_total", COUNTER, "Of those, periods in which the limit held it back."), _of_counters("throttled_periods")),
    (_metric("cpu_throttled_seconds_total", COUNTER, "Time for which the CPU limit held it back."), _of_counters("throttled_seconds")),
    (_metric("cpu_limit_cores", GAUGE, "Its CPU limit.", condition=_LIMIT), _limit("cpu_millicores", 1000)),
    (_metric("memory_usage_bytes", GAUGE, "Memory in use, caches and kernel memory included."), _of_counters("memory_bytes")),
    (_metric("memory_working_set_bytes", GAUGE, "Memory in use less inactive cache."), _of_counters("working_set_bytes")),
    (_metric("memory_cache_bytes", GAUGE, "Memory in use for the content of files."), _of_counters("cache_bytes")),
    (_metric("memory_peak_bytes", GAUGE, "Most memory ever in use.", condition="from kernel 5.19 on"), _of_counters("peak_bytes")),
    (_metric("memory_limit_bytes", GAUGE, "Its memory limit.", condition=_LIMIT), _limit("memory_bytes", 1)),
    (_metric("memory_limit_hits_total", COUNTER, "How often memory was at its limit."), _of_counters("limit_hits")),
    (_metric("oom_kills_total", COUNTER, "Processes that the kernel killed at the memory limit."), _of_counters("oom_kills")),
    (_metric("pids", GAUGE, "Processes and threads."), _of_counters("pids")),
    (_metric("pids_limit", GAUGE, "Its limit of processes and threads.", condition=_LIMIT), _limit("pids", 1)),
    (_metric("pids_refused_total", COUNTER, "Processes and threads refused at that limit."), _of_counters("pids_refused")),
    (_metric("io_read_bytes_total", COUNTER, "Bytes read from block devices.", condition=_IO), _of_counters("read_bytes")),
    (_metric("io_written_bytes_total", COUNTER, "Bytes written to block devices.", condition=_IO), _of_counters("write_bytes")),
    (_metric("io_reads_total", COUNTER, "Reads from block devices.", condition=_IO), _of_counters("reads")),
    (_metric("io_writes_total", COUNTER, "Writes to block devices.", condition=_IO), _of_counters("writes")),
    (_metric("network_received_bytes_total", COUNTER, "Bytes that came into it.", condition=_BRIDGE), _of_traffic("received_bytes")),
    (_metric("network_received_packets_total", COUNTER, "Packets that came into it.", condition=_BRIDGE), _of_traffic("received_packets")),
    (_metric("network_received_dropped_total", COUNTER, "Packets for it that were dropped.", condition=_BRIDGE), _of_traffic("received_dropped")),
    (_metric("network_sent_bytes_total", COUNTER, "Bytes that it sent.", condition=_BRIDGE), _of_traffic("sent_bytes")),
    (_metric("network_sent_packets_total", COUNTER, "Packets that it sent.", condition=_BRIDGE), _of_traffic("sent_packets")),
    (_metric("network_sent_dropped_total", COUNTER, "Packets from it that were dropped.", condition=_BRIDGE), _of_traffic("sent_dropped")),
    (_metric("network_denied_total", COUNTER, "Packets from it that its policy refused.", condition=_BRIDGE), lambda sample: sample.denied),
    (
        _metric("disk_used_bytes", GAUGE, "What its writable layer takes, looked at each half minute; of many files the first 20,000."),
        lambda sample: sample.disk_bytes,
    ),
    (_metric("disk_limit_bytes", GAUGE, "Its limit of bytes on disk.", condition=_LIMIT), _limit("disk_bytes", 1)),
    (_metric("io_read_limit_bytes", GAUGE, "Its limit of bytes read a second.", condition=_LIMIT), _limit("read_bytes_per_second", 1)),
    (_metric("io_write_limit_bytes", GAUGE, "Its limit of bytes written a second.", condition=_LIMIT), _limit("write_bytes_per_second", 1)),
)  # fmt: skip


def _info(sample: Sample) -> Iterable[tuple[str, float]]:
    spec, launch = sample.sandbox.spec, "Warm" if sample.life.is_warm else "Cold"
    launch = launch if sample.life.started_ns else ""
    yield f',uid="{escape(sample.sandbox.metadata.uid)}",image="{escape(spec.image)}",launch_type="{launch}",network="{spec.network.mode}"', 1


def _phase(sample: Sample) -> Iterable[tuple[str, float]]:
    yield f',phase="{sample.phase}"', 1


def _pressure(sample: Sample) -> Iterable[tuple[str, float]]:
    for resource, kind, seconds in sample.counted.stalled if sample.counted is not None else ():
        yield f',resource="{resource}",kind="{kind}"', seconds


LABELLED: tuple[tuple[Metric, _Many], ...] = (
    (_metric("info", GAUGE, "What it is; always 1.", "uid", "image", "launch_type", "network"), _info),
    (_metric("phase", GAUGE, "1 for the phase that it is in.", "phase"), _phase),
    (
        _metric(
            "pressure_seconds_total", COUNTER, "Time for which some, or all, of its tasks waited for a resource.", "resource", "kind",
            condition="with version 2 of control groups, where the kernel keeps pressure",
        ),
        _pressure,
    ),
)  # fmt: skip
CATALOGUE = (*(metric for metric, _ in LABELLED), *(metric for metric, _ in PLAIN))
_HEADS = tuple(f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}" for metric in CATALOGUE)
_Row = tuple[str, ...]


class Text:
    """The text of samples, exposition format 0.0.4; it keeps the lines of each sandbox until something of it changes. For one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Sample, _Row]] = {}

    def render(self, samples: Iterable[Sample]) -> str:
        """The text of *samples*. A sandbox that is not among them has no series, and is forgotten."""
        before, self._known = self._known, {}
        for sample in samples:
            uid = sample.sandbox.metadata.uid
            found = before.get(uid)
            self._known[uid] = found if found is not None and found[0] == sample else (sample, _render_row(sample))
        lines: list[str] = []
        columns = zip(*(row for _, row in self._known.values()), strict=True) if self._known else [()] * len(CATALOGUE)
        for head, column in zip(_HEADS, columns, strict=True):
            lines.append(head)
            lines.extend(filter(None, column))
        return "\n".join(lines) + "\n"


def _render_row(sample: Sample) -> _Row:
    """The lines of one sandbox for each metric of CATALOGUE; an empty text where there is none."""
    labels = _labels(sample)
    row = ["\n".join(f"{metric.name}{{{labels}{more}}} {value}" for more, value in read_many(sample)) for metric, read_many in LABELLED]
    row += [f"{metric.name}{{{labels}}} {value}" if (value := read(sample)) is not None else "" for metric, read in PLAIN]
    return tuple(row)


def escape(text: str) -> str:
    """*text* as the value of a label; an image is named by whoever writes a manifest."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _labels(sample: Sample) -> str:
    metadata = sample.sandbox.metadata
    return f'namespace="{escape(metadata.namespace)}",name="{escape(metadata.name)}",node="{escape(sample.node)}"'
