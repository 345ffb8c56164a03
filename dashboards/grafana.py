"""Grafana's JSON of a dashboard, by Grafana's own library."""

from __future__ import annotations

import string
from collections.abc import Iterator

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, timeseries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from dashboards.panels import GREEN, RED, STAT, YELLOW, Dashboard, Panel, Query

_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_VALUES = {
    "namespace": ("Namespace", "label_values(skerry_sandbox_info, namespace)"),
    "node": ("Node", "label_values(skerry_agent_info, node)"),
    "sandbox": ("Sandbox", 'label_values(skerry_sandbox_info{namespace=~"$namespace",node=~"$node"}, name)'),
}
_COLUMNS, _STAT_HEIGHT, _LINES_HEIGHT = 24, 4, 8


def render(page: Dashboard) -> str:
    """The text of the file that is provisioned."""
    builder = builders.Dashboard(page.title).uid(page.uid).description(page.about).tags(["skerry"]).refresh("30s").time("now-1h", "now")
    builder = builder.tooltip(dashboard.DashboardCursorSync.CROSSHAIR).timezone("browser")
    builder = builder.with_variable(builders.DatasourceVariable("datasource").type("prometheus").label("Data source"))
    for name in page.variables:
        label, values = _VALUES[name]
        variable = builders.QueryVariable(name).label(label).datasource(_SOURCE).query(values).multi(multi=True).include_all(include_all=True)
        variable = variable.all_value(".*").refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        builder = builder.with_variable(variable)
    link = builders.DashboardLink("Skerry").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["skerry"])
    builder = builder.link(link.as_dropdown(as_dropdown=True).include_vars(include_vars=True).keep_time(keep_time=True))
    for row in page.rows:
        builder = builder.with_row(builders.Row(row.title))
        for panel in row.panels:
            height = _STAT_HEIGHT if panel.kind == STAT else _LINES_HEIGHT
            builder = builder.with_panel(_panel(panel).height(height).span(_COLUMNS // len(row.panels)))
    return str(JSONEncoder(sort_keys=True, indent=1).encode(builder.build())) + "\n"


def _panel(panel: Panel) -> stats.Panel | timeseries.Panel:
    made = stats.Panel() if panel.kind == STAT else timeseries.Panel()
    made = made.title(panel.title).unit(panel.unit).datasource(_SOURCE).targets(list(_targets(panel.queries))).thresholds(_thresholds(panel)).min(0)
    if panel.about or panel.needs:
        made = made.description(
            " ".join(part for part in (panel.about, f"Empty where the kernel does not count {panel.needs}." * bool(panel.needs)) if part)
        )
    if panel.most is not None:
        made = made.max(panel.most)
    if panel.link:
        made = made.data_links([builders.DashboardLink("Look closer").url(panel.link)])
    if isinstance(made, timeseries.Panel):
        made = made.fill_opacity(20 if panel.is_stacked else 5).legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        if panel.is_stacked:
            made = made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
        if panel.alarm is not None:
            made = made.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    return made


def _targets(queries: tuple[Query, ...]) -> Iterator[prometheus.Dataquery]:
    for letter, query in zip(string.ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expression).datasource(_SOURCE)
        yield target.legend_format(query.legend) if query.legend else target


def _thresholds(panel: Panel) -> builders.ThresholdsConfig:
    """What lies above *warn* is yellow and above *alarm* red; where low is bad, what lies below."""
    config = builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE)
    if panel.warn is None or panel.alarm is None:
        return config.steps([dashboard.Threshold(color=GREEN)])
    if panel.is_low_bad:
        steps = [
            dashboard.Threshold(color=RED),
            dashboard.Threshold(value=panel.alarm, color=YELLOW),
            dashboard.Threshold(value=panel.warn, color=GREEN),
        ]
    else:
        steps = [
            dashboard.Threshold(color=GREEN),
            dashboard.Threshold(value=panel.warn, color=YELLOW),
            dashboard.Threshold(value=panel.alarm, color=RED),
        ]
    return config.steps(steps)
