"""Dashboards as values: what a panel asks and how its answer is read. Pure; `grafana` makes JSON of them, tests and pictures ask the same queries."""

from __future__ import annotations

from dataclasses import dataclass

STAT, LINES = "stat", "lines"
GREEN, YELLOW, RED = "green", "#EAB839", "red"
_KEPT = "&${__url_time_range}&${datasource:queryparam}"
SANDBOX_LINK = f"/d/skerry-sandbox?var-namespace=${{__field.labels.namespace}}&var-sandbox=${{__field.labels.name}}{_KEPT}"
NODE_LINK = f"/d/skerry-node?var-node=${{__field.labels.node}}{_KEPT}"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and what a series of the answer is called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. *unit* is Grafana's; *warn* and *alarm* colour what is above them, or below where *is_low_bad*.

    *needs* names a metric that not every kernel counts: without it the panel is empty.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    about: str = ""
    kind: str = LINES
    is_stacked: bool = False
    warn: float | None = None
    alarm: float | None = None
    is_low_bad: bool = False
    most: float | None = None
    link: str = ""
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels beside each other under a title."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page. *variables* are those of `datasource`, `namespace`, `node`, `sandbox` that it asks for."""

    name: str
    title: str
    about: str
    variables: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        """What links call it."""
        return f"skerry-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them."""
        return tuple(panel for row in self.rows for panel in row.panels)


def lines(title: str, unit: str, *queries: tuple[str, str], **more: object) -> Panel:
    """A panel of lines over time; each query with its legend."""
    return Panel(title, tuple(Query(*query) for query in queries), unit=unit, **more)  # type: ignore[arg-type]


def stat(title: str, unit: str, expression: str, legend: str = "", **more: object) -> Panel:
    """One number, or one for each series."""
    return Panel(title, (Query(expression, legend),), unit=unit, kind=STAT, **more)  # type: ignore[arg-type]


def quantiles(metric: str, matchers: str = "", by: str = "") -> tuple[tuple[str, str], ...]:
    """The median, the 95th and the 99th percentile of a histogram, by a label where one is named."""
    labels, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    summed = f"sum by ({labels}) (rate({metric}_bucket{matchers}[$__rate_interval]))"
    return tuple((f"histogram_quantile({level}, {summed})", f"{legend}{name}") for level, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")))


def rate(metric: str, matchers: str = "", *, by: str = "") -> str:
    """The sum of a counter's rate, by labels where any are named."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{matchers}[$__rate_interval]))"
