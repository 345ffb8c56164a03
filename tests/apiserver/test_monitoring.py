"""A real Prometheus scrapes a whole cluster: rules hold, every panel of every dashboard has data, and the numbers are the kernel's."""

from __future__ import annotations

import os
import time

import pytest

import skerry
from dashboards import pages
from tests.harness import ledger as books
from tests.harness import scenario
from tests.harness.agents import wait_for
from tests.harness.prometheus import RULES, run_promtool

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
WINDOW = "60s"
"""Of the rates: long enough for one event of each kind on a busy machine."""
pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.host("builds Prometheus from its Go module")]


@pytest.fixture(autouse=True)
def _nothing_stays():
    """Sandboxes of the module come and go between two tests; the books are balanced by `world`, around all of them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory, ledger_scope):
    before = books.snapshot(ledger_scope)
    with scenario.running(str(tmp_path_factory.mktemp("monitoring")), tag="mo") as (cluster, prometheus):
        scenario.play(cluster)
        scenario.go_on(cluster)
        yield cluster, prometheus
    leaks = books.wait_for_balance(before, ledger_scope)
    assert not leaks, "\n".join(leaks)


def test_rules_are_sound_and_each_alert_fires_when_it_should():
    """As promtool says: `check rules`, then the cases of tests/prometheus, two for each alert."""
    checked = run_promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert checked.returncode == 0, checked.stdout
    tested = run_promtool("test", "rules", f"{ROOT}/tests/prometheus/alerts.yaml")
    assert tested.returncode == 0, tested.stdout


def test_everything_is_scraped(world):
    """Operator, gateway and agent answer in a form that Prometheus takes whole."""
    _, prometheus = world
    wait_for(None, "every target up", lambda: [target["health"] for target in prometheus.targets()] == ["up"] * 3)
    assert {target["labels"]["job"] for target in prometheus.targets()} == {"skerry-operator", "skerry-gateway", "skerry-agent"}
    assert [target["lastError"] for target in prometheus.targets()] == ["", "", ""]


def test_every_query_of_every_panel_has_data(world):
    """Each is asked of Prometheus. What this kernel does not count is empty, and nothing else is."""
    cluster, prometheus = world
    told = {each["metric"]["__name__"] for each in prometheus.query('{__name__=~"skerry_.*"}')}
    panels = [panel for page in pages.ALL for panel in page.panels]
    empty = [panel for panel in panels if panel.needs and panel.needs not in told]
    wanted = [scenario.adapt(query.expression, WINDOW) for panel in panels if panel not in empty for query in panel.queries]
    scenario.wait_all(cluster, prometheus, wanted, what="data for every panel")
    for panel in empty:
        assert [prometheus.query(scenario.adapt(query.expression, WINDOW)) for query in panel.queries] == [[]] * len(panel.queries)
    is_v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    assert {panel.needs for panel in empty} == set() if is_v2 else {
        "skerry_sandbox_io_read_bytes_total", "skerry_sandbox_io_reads_total", "skerry_sandbox_pressure_seconds_total",
    }  # fmt: skip


def test_recorded_series_and_alerts_are_evaluated(world):
    """By namespace and node; a failing pull and one that waits are seen by the expressions of their alerts."""
    cluster, prometheus = world
    names = [f"namespace:skerry_{each}" for each in ("sandboxes:count", "sandbox_cpu_seconds:rate5m", "sandbox_memory_working_set_bytes:sum")]
    names += [f"node:skerry_{each}" for each in ("sandboxes:count", "start_seconds:p95_5m", "filesystem_available:ratio")]
    more = ['skerry_image_pull_seconds_count{result!~"done|Cancelled"} > 0', 'skerry_operator_pending_sandboxes{reason="InsufficientCpu"} == 1']
    more += ["skerry_operator_oldest_pending_seconds > 0", 'skerry_sandbox_ends_total{reason="OOMKilled"} > 0']
    more += ['skerry_gateway_requests_total{outcome="failed"} > 0', "skerry_certificate_expiry_timestamp_seconds > time()"]
    scenario.wait_all(cluster, prometheus, [*names, *more], what="recorded series")


def test_numbers_are_those_of_the_control_files(world):
    """CPU over some seconds and memory: what Prometheus has lies within two per cent of the files, read before and after."""
    cluster, prometheus = world
    paths = skerry.Client(cluster.agents[0].socket_path).inspect("busy", namespace="default")["node"]["cgroups"]
    path = next(each for each in paths if os.path.exists(f"{each}/cpuacct.usage") or os.path.exists(f"{each}/cpu.max"))
    wait_for(None, "a scrape", lambda: bool(prometheus.query('skerry_sandbox_cpu_seconds_total{name="busy"}')))
    before = cpu_seconds(path)
    wait_for(None, "CPU time used", lambda: cpu_seconds(path) > before + 0.5)
    low, at = cpu_seconds(path), time.time()
    scraped = 'timestamp(skerry_sandbox_cpu_seconds_total{name="busy"})'
    wait_for(None, "a scrape after the reading", lambda: float(prometheus.query(scraped)[0]["value"][1]) > at + 0.1)
    told = float(prometheus.query('skerry_sandbox_cpu_seconds_total{name="busy"}')[0]["value"][1])
    high = cpu_seconds(path)
    assert low * 0.98 <= told <= high * 1.02
    limit = next(float(each["value"][1]) for each in prometheus.query('skerry_sandbox_memory_limit_bytes{name="busy"}'))
    assert limit == 48 << 20


def cpu_seconds(path):
    try:
        with open(f"{path}/cpuacct.usage", encoding="ascii") as file:
            return int(file.read()) / 1e9
    except FileNotFoundError:
        with open(f"{path}/cpu.stat", encoding="ascii") as file:
            return int(file.readline().split()[1]) / 1e6


def test_series_end_with_the_sandbox(world):
    """Deleted: within a scrape no series of it is left; its neighbours' are."""
    cluster, prometheus = world
    cluster.plane.kubectl("delete", "sandbox", "idle")
    wait_for(None, "no series of a deleted sandbox", lambda: not prometheus.query('{name="idle",__name__=~"skerry_sandbox_.*"}'))
    assert prometheus.query('skerry_sandbox_info{name="busy"}')
