"""The whole suite's: the harness's fixtures, and how it is spread over processes."""

from __future__ import annotations

import os
from typing import Any

import pytest
from xdist import workermanage

from tests.harness import lanes, points

pytest_plugins = ("tests.harness.fixtures",)


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Each lane below a subreaper of its own; xdist has made its list of processes before, for it is asked first."""
    if config.getoption("numprocesses", None):
        config.option.tx = [lanes.worker()] * len(config.option.tx)
        workermanage.NodeManager.EXIT_TIMEOUT = 120  # seconds: an interrupted lane ends its fixtures, and with them its sandboxes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> lanes.Scheduling | None:
    """Ours for `-n` with nothing said about --dist, which is xdist's `load`."""
    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False
    return lanes.Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first; without lanes as they stand."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: lanes.sort_key(item.nodeid))


def pytest_report_header() -> str:
    """Which part of the repetitions this run takes."""
    return points.describe()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed; why comes at the end."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})", flush=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The counts of kill points, each a line."""
    calls = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    lines = [value for report in calls for key, value in report.user_properties if key == points.KEY]
    if lines:
        terminalreporter.section("kill points")
        terminalreporter.line(points.describe())
        for line in sorted(lines):
            terminalreporter.line(line)
