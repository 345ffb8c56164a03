"""Dashboards, rules and pages name only what there is, and each alert has its page and its tests."""

import json
import pathlib
import re

import pytest
import yaml

from dashboards import grafana, metricspage, pages

ROOT = pathlib.Path(__file__).resolve().parents[3]
RULES = [
    rule
    for path in sorted((ROOT / "charts/skerry/rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
KNOWN = {metric.name for _, _, metrics in metricspage.SECTIONS for metric in metrics}
KNOWN |= {
    f"{metric.name}_{end}" for _, _, metrics in metricspage.SECTIONS for metric in metrics if metric.buckets for end in ("bucket", "count", "sum")
}
_NAMES = re.compile(r"(?:\w+:)?skerry_\w+(?::\w+)?")


def named(expression):
    return set(_NAMES.findall(re.sub(r'"[^"]*"', "", expression)))


@pytest.mark.parametrize("page", pages.ALL, ids=lambda page: page.name)
def test_panels_ask_for_what_there_is(page):
    """Every metric of every query is told by a program of ours or recorded by a rule; variables are those that the page has."""
    variables = set()
    for panel in page.panels:
        for query in panel.queries:
            assert named(query.expression) <= KNOWN | RECORDED, panel.title
            variables |= set(re.findall(r"\$(\w+)", query.expression)) - {"__rate_interval"}
    assert variables == set(page.variables)


@pytest.mark.parametrize("page", pages.ALL, ids=lambda page: page.name)
def test_what_is_provisioned_is_complete(page):
    """Each panel has a unit, a place of its own, thresholds and the chosen data source; pages link to each other."""
    made = json.loads(grafana.render(page))
    shown = [panel for panel in made["panels"] if panel["type"] != "row"]
    assert len(shown) == len(page.panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in shown]
    assert len(set(places)) == len(places)
    for panel in shown:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    assert made["links"][0]["includeVars"] is True
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource", *page.variables]


def test_links_of_panels_lead_to_dashboards():
    """To one of ours, by its uid, with variables that it has."""
    known = {page.uid: page for page in pages.ALL}
    links = {panel.link for page in pages.ALL for panel in page.panels if panel.link}
    assert len(links) == 2
    for link in links:
        uid = re.match(r"/d/([\w-]+)\?", link)[1]
        assert set(re.findall(r"var-(\w+)=", link)) <= set(known[uid].variables)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_there_is(rule):
    assert named(rule["expr"]) <= KNOWN | RECORDED


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_page_and_fires_and_holds_still_in_a_test(rule):
    """Promtool runs the tests with the API server's."""
    name = rule["alert"]
    page = ROOT / "docs/runbooks" / f"{name.lower()}.md"
    assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{page.name}")
    assert page.read_text().startswith(f"# {name}\n")
    cases = [case["name"] for case in yaml.safe_load((ROOT / "tests/prometheus/alerts.yaml").read_text())["tests"]]
    assert {f"{name} fires", f"{name} does not fire"} <= set(cases)


def test_no_page_is_left_of_an_alert_that_went():
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} == {rule["alert"].lower() for rule in ALERTS}
