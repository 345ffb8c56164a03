"""Tests on the real kernel: as root, below a subreaper, with the books compared after each."""

from __future__ import annotations

import os

import pytest

from tests.harness import subreaper
from tests.harness.ledger import Snapshot

if os.geteuid() == 0:
    subreaper.adopt_orphans()  # here, before any test starts a thread


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Snapshot:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    snapshot: Snapshot = request.getfixturevalue("ledger")
    return snapshot


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the virtual machine a failure is told at once: the machine may be stopped before pytest comes to its summary."""
    if report.failed and "SKERRY_VM" in os.environ:
        print(f"\n{report.nodeid} ({report.when}):\n{report.longreprtext}", flush=True)
