"""What is remembered of a sandbox: on record within a boot, from its status after one."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from skerry_api.conditions import Condition
from skerry_api.sandbox import SandboxStatus, Termination, TerminationReason
from skerry_node import lives
from skerry_node.model import Life, Stopping

NOW = "2026-01-01T00:10:00.000000Z"
ERROR = Termination(TerminationReason.ERROR, exit_code=3, finished_at="2026-01-01T00:09:30.000000Z")
LOST = Termination(TerminationReason.NODE_LOST, finished_at="2026-01-01T00:09:30.000000Z")


def _status(ready: str, reason: str, **changes: Any) -> SandboxStatus:
    condition = Condition(type="Ready", status=ready, reason=reason, message="", last_transition_time="2026-01-01T00:00:00Z")
    return SandboxStatus(conditions=(condition,), started_at="2026-01-01T00:00:00.000000Z", **changes)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(_status("True", "Running"), "NodeRebooted", id="it ran"),
        pytest.param(_status("True", "Running", termination=ERROR), "NodeRebooted", id="it ran again after an end"),
        pytest.param(_status("False", "Paused", termination=ERROR), "NodeRebooted", id="it was paused"),
        pytest.param(_status("False", "NodeLost", termination=LOST), "NodeRebooted", id="the node was lost before it came back"),
        pytest.param(_status("False", "Error", termination=ERROR), "Error", id="it had ended"),
        pytest.param(_status("False", "BackOff", termination=ERROR), "Error", id="it was held back"),
        pytest.param(_status("False", "Stopped", termination=ERROR), "Error", id="it was stopped"),
    ],
)
def test_a_reboot_ends_what_was_alive_and_nothing_else(status, reason):
    """What had ended keeps its end."""
    life = lives.from_status(status, now_iso=NOW, now_seconds=5.0)
    assert life.termination is not None
    assert life.termination.reason == reason
    assert life.is_at_rest == (status.conditions[0].reason == "Stopped")


def test_times_of_ends_go_on_across_a_reboot():
    """An end half a minute ago was 25 s before a boot of 5 s ago; one of the future is taken for now."""
    assert lives.from_status(_status("False", "Error", termination=ERROR), now_iso=NOW, now_seconds=5.0).finished_seconds == -25.0
    future = Termination(TerminationReason.ERROR, finished_at="2027-01-01T00:00:00.000000Z")
    assert lives.from_status(_status("False", "Error", termination=future), now_iso=NOW, now_seconds=5.0).finished_seconds == 5.0


def test_a_record_counts_in_its_own_boot_only(tmp_path):
    """Read back as written; of another boot it is stale, and tells nothing."""
    os.mkdir(tmp_path / "u")
    fd = os.open(tmp_path, os.O_RDONLY)
    life = Life(attempt=3, crashes=2, termination=ERROR, stopping=Stopping("Stopped", 7.0))
    lives.write(fd, "u", life, name="default/a")
    assert (lives.read(fd, "u"), lives.is_stale(fd, "u")) == (life, False)
    raw = json.loads((tmp_path / "u" / "life").read_text()) | {"boot_id": "another"}
    (tmp_path / "u" / "life").write_text(json.dumps(raw))
    (tmp_path / "u" / "exit").write_text("{}")
    assert (lives.read(fd, "u"), lives.is_stale(fd, "u")) == (None, True)
    lives.forget_processes(fd, "u")
    assert os.listdir(tmp_path / "u") == ["life"]
    os.close(fd)
