"""What a person with Prometheus and Grafana has of a sandbox: the panels of its dashboard, asked of a real Prometheus."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import yaml

from dashboards import pages
from tests.harness import scenario
from tests.harness.prometheus import RULES, Prometheus

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "prometheus.yml"
_JOBS = {"skerry-operator", "skerry-gateway", "skerry-agent"}


def prometheus(directory: pathlib.Path, kubeconfig: str) -> Prometheus:
    """One with the configuration of examples/, but for what a test has no time for, and for where it stands: outside the cluster."""
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    rules = [os.path.abspath(EXAMPLE.parent / path) for path in config["rule_files"]]
    assert rules == list(RULES)
    config["rule_files"] = rules
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        for found in job["kubernetes_sd_configs"]:
            found["kubeconfig_file"] = kubeconfig
    return Prometheus.configured(str(directory / "prometheus"), config)


def is_scraped(made: Prometheus) -> bool:
    """Whether every program of the chart is, and answers."""
    targets = made.targets()
    return {each["labels"]["job"] for each in targets} == _JOBS and all(each["health"] == "up" for each in targets)


def missing(made: Prometheus, chosen: dict[str, str]) -> list[str]:
    """Queries of the dashboard of a sandbox that have no data with the variables *chosen*, but for what this kernel does not count."""
    told = {each["metric"]["__name__"] for each in made.query('{__name__=~"skerry_.*"}')}
    asked = [query.expression for panel in pages.SANDBOX.panels if not panel.needs or panel.needs in told for query in panel.queries]
    assert asked
    return [expression for expression in asked if not scenario.has_data(made.query(scenario.adapt(expression, "30s", chosen)))]
