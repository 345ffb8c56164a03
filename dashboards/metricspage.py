"""docs/metrics.md, from the catalogues in the code."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from skerry_api.metric import Metric
from skerry_node.metering import catalogue, series
from skerry_operator import catalogue as cluster

SECTIONS: tuple[tuple[str, str, tuple[Metric, ...]], ...] = (
    ("Sandboxes", "By the agent of their node. All have the labels `namespace`, `name` and `node`, and end with the sandbox.", series.CATALOGUE),
    ("The agent", "One per node: its own work, its keeper, its images.", catalogue.CATALOGUE),
    ("The operator", "", cluster.OPERATOR),
    ("The gateway", "", cluster.GATEWAY),
)
_HEAD = """# Metrics

Written from the code by `python -m dashboards`; do not edit it by hand. Units are seconds, bytes and cores. What only grows ends in `_total`; it
begins anew with the process that counts it, and that of a sandbox with each start. A metric whose condition does not hold has no series: absent is
not zero. Counts of a sandbox are read from the kernel when Prometheus asks.

| program | where |
| --- | --- |
| agent | `http://HOST:PORT/metrics`, see `--metrics-address` in [cli.md](cli.md) |
| operator, gateway | `http://HOST:PORT/metrics`, see `--metrics-port` |

All of them tell `process_*` of themselves as well. Call the jobs `skerry-agent`, `skerry-operator` and `skerry-gateway`, and set `honor_labels: true`
for the agents, because the namespace of a sandbox is not the agent's; an agent's own series get their label `node` from whoever scrapes. The
chart's monitors (`monitoring.podMonitors`) do all of this. The rules are in `charts/skerry/rules`, the dashboards in [dashboards.md](dashboards.md).
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(*section) for section in SECTIONS)])


def _section(title: str, about: str, metrics: Iterable[Metric]) -> str:
    return "\n".join([f"## {title}", "", *([about, ""] if about else []), *(_row(metric) for metric in metrics), ""])


def _row(metric: Metric) -> str:
    labels = _labels(metric)
    head = f"- `{metric.name}` ({metric.kind}{f'; {labels}' if labels else ''}): {_about(metric)}"
    return textwrap.fill(head, 140, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _labels(metric: Metric) -> str:
    names = metric.labels[3:] if metric.labels[:3] == series.LABELS else metric.labels
    return ", ".join(f"`{name}`" for name in names)


def _about(metric: Metric) -> str:
    parts = [metric.help]
    parts += [f"`{label}`: {text}." for label, text in metric.values]
    if metric.condition:
        parts.append(f"Only {metric.condition}.")
    if metric.buckets:
        parts.append(f"Buckets from {metric.buckets[0]:g} to {metric.buckets[-1]:g} s.")
    return " ".join(parts)
