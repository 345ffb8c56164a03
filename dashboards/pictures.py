"""Pictures of the dashboards for the docs, drawn from Prometheus' answers to the queries of the panels: what Grafana shows, without it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import dates, pyplot, ticker

from dashboards.panels import STAT, Dashboard, Panel

Ask = Callable[[str], Sequence[Mapping[str, Any]]]
"""Answers PromQL over the time that is shown: `metric` and `values` of each series."""
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"))
_ENDINGS = {"bytes": "B", "Bps": "B/s", "s": "s", "ops": "/s", "reqps": "/s", "pps": "/s", "iops": "/s", "cores": ""}
_MOST_LINES = 8
_BACKGROUND, _PANEL, _INK = "#111217", "#181b1f", "#ccccdc"


def draw(page: Dashboard, ask: Ask, path: str) -> int:
    """Write *page* to *path* as PNG, a row of panels in each line; returns how many panels had nothing to show."""
    mpl.use("Agg")
    heights = [1.0 if row.panels[0].kind == STAT else 2.2 for row in page.rows]
    with mpl.rc_context(
        {"font.size": 7, "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.edgecolor": "#333"}
    ):
        figure = pyplot.figure(figsize=(15, sum(heights) + 0.5 * len(heights)), facecolor=_BACKGROUND, layout="constrained")
        parts = figure.subfigures(len(page.rows), 1, height_ratios=heights, squeeze=False)
        figure.suptitle(page.title, fontsize=11, x=0.01, ha="left")
        empty = 0
        for part, row in zip(parts[:, 0], page.rows, strict=True):
            part.set_facecolor(_BACKGROUND)
            part.suptitle(row.title, fontsize=9, x=0.01, ha="left")
            for axes, panel in zip(part.subplots(1, len(row.panels), squeeze=False)[0], row.panels, strict=True):
                axes.set_facecolor(_PANEL)
                axes.set_title(panel.title, fontsize=8, loc="left")
                found = [(_legend(query.legend, each["metric"]), each["values"]) for query in panel.queries for each in ask(query.expression)]
                empty += not found
                (_draw_stat if panel.kind == STAT else _draw_lines)(axes, panel, found)
        figure.savefig(path, dpi=80, facecolor=_BACKGROUND)
        pyplot.close(figure)
    return empty


def _draw_stat(axes: Any, panel: Panel, found: Sequence[tuple[str, Any]]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    value = float(found[0][1][-1][1]) if found else None
    text = "no data" if value is None else render(value, panel.unit)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=16, color=_colour(panel, value))


def _draw_lines(axes: Any, panel: Panel, found: Sequence[tuple[str, Any]]) -> None:
    if not found:
        axes.text(0.5, 0.5, "not counted by this kernel" if panel.needs else "no data", ha="center", va="center", transform=axes.transAxes)
    busiest = sorted(found, key=lambda each: -max((float(value) for _, value in each[1] if value != "NaN"), default=0.0))[:_MOST_LINES]
    for legend, values in busiest:
        times = [datetime.datetime.fromtimestamp(float(at), tz=datetime.UTC) for at, _ in values]
        axes.plot(times, [float(value) for _, value in values], linewidth=1, label=legend[:48] or panel.title)
    if busiest:
        axes.legend(loc="upper left", fontsize=5.5, facecolor=_PANEL, edgecolor="none", labelcolor=_INK, framealpha=0.6)
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: render(value, panel.unit)))
        axes.set_ylim(bottom=0)
    axes.grid(color="#2c3035", linewidth=0.5)


def render(value: float, unit: str) -> str:
    """*value* as Grafana writes it, roughly."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value >= 120:
        return str(datetime.timedelta(seconds=round(value)))
    if value == 0:
        return f"0 {_ENDINGS.get(unit, '')}".strip()
    factor, prefix = next(((factor, prefix) for factor, prefix in _PREFIXES if abs(value) >= factor), _PREFIXES[-1])
    if unit in {"short", "cores"} and abs(value) < 1:
        factor, prefix = 1, ""
    return f"{value / factor:.3g} {prefix}{_ENDINGS.get(unit, '')}".strip()


def _legend(pattern: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


def _colour(panel: Panel, value: float | None) -> str:
    if value is None:
        return _INK
    if panel.warn is None or panel.alarm is None:
        return "#73bf69"
    sign = -1 if panel.is_low_bad else 1
    if sign * value >= sign * panel.alarm:
        return "#f2495c"
    return "#fade2a" if sign * value >= sign * panel.warn else "#73bf69"
