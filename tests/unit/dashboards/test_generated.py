"""What is generated is as the code has it, and the code has what it tells of."""

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family

from dashboards import __main__ as generated
from dashboards import metricspage
from skerry_api.metric import COUNTER
from skerry_node import metrics
from skerry_operator import metrics as operator_metrics
from skerry_operator.gateway import meters

READ_AT_SCRAPES = {
    "skerry_agent_info", "skerry_shells_ready", "skerry_shells_wanted", "skerry_keeper_connected", "skerry_keeper_resident_memory_bytes",
    "skerry_watch_age_seconds", "skerry_certificate_expiry_timestamp_seconds", "skerry_images", "skerry_images_broken",
    "skerry_image_layers_bytes", "skerry_filesystem_size_bytes", "skerry_filesystem_available_bytes", "skerry_node_allocatable",
    "skerry_node_allocated", "skerry_operator_pending_sandboxes", "skerry_operator_oldest_pending_seconds",
}  # fmt: skip


def test_what_is_generated_is_as_the_code_has_it():
    """`python -m dashboards` mends a difference."""
    assert generated.find_differing() == []


def families(registry: CollectorRegistry) -> dict[str, Family]:
    found = {family.name + ("_total" if family.type == COUNTER else ""): family for family in registry.collect()}
    return {name: family for name, family in found.items() if name.startswith("skerry_")}


def test_each_metric_of_the_page_is_made_by_its_program_and_no_other_is():
    """The catalogues and the instruments agree in name, type and text."""
    agent = metrics.Meters(list)
    operator, gateway = operator_metrics.Metrics(), meters.Meters()
    for registry, section in ((agent.registry, 1), (operator.registry, 2), (gateway.registry, 3)):
        told, made = {metric.name: metric for metric in metricspage.SECTIONS[section][2]}, families(registry)
        assert told.keys() - READ_AT_SCRAPES == made.keys() - READ_AT_SCRAPES
        for name, family in made.items():
            assert (family.type, family.documentation) == (told[name].kind, told[name].help)


def test_names_units_and_texts_follow_the_conventions():
    """Counters and only they end in _total; every text is a sentence; histograms of time begin at a millisecond or below, or are of transfers."""
    every = [metric for _, _, metrics in metricspage.SECTIONS for metric in metrics]
    for metric in every:
        assert metric.name.startswith("skerry_")
        assert (metric.kind == COUNTER) == metric.name.endswith("_total")
        assert metric.help.endswith((".", "0."))
        assert not any(unit in metric.name for unit in ("milli", "_ms", "kilo", "percent", "_mb"))
        assert bool(metric.buckets) == (metric.kind == "histogram")
