"""Events: one for each transition that a person asks about, with the true reason, and none for the rest."""

import dataclasses

import pytest

from skerry_api.conditions import Condition
from skerry_api.sandbox import SandboxStatus, Termination, TerminationReason
from skerry_node import happenings

SILENT = frozenset({"Pulling"})
OOM = Termination(TerminationReason.OOM_KILLED, exit_code=137, message="the kernel killed it at its memory limit")
DONE = Termination(TerminationReason.COMPLETED, exit_code=0)


def status(reason, message="", **more: object):
    ready = Condition(type="Ready", status="True" if reason == "Running" else "False", reason=reason, message=message, last_transition_time="")
    return SandboxStatus(conditions=(ready,), **more)


RUNNING = status("Running", started_at="2026-01-01T00:00:00Z", start_duration_milliseconds=3)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(RUNNING, RUNNING, None, id="all is well: nothing to tell"),
        pytest.param(RUNNING, dataclasses.replace(RUNNING, address="10.0.0.9"), None, id="an address is no transition"),
        pytest.param(SandboxStatus(), status("Starting"), ("Starting", "", False), id="a first look"),
        pytest.param(status("Starting"), RUNNING, ("Started", "busybox started in 3 ms", False), id="it runs"),
        pytest.param(status("Starting"), status("Pulling"), None, id="imaging tells of pulls itself"),
        pytest.param(RUNNING, status("Paused", "by desiredState"), ("Paused", "by desiredState", False), id="paused on demand is no warning"),
        pytest.param(status("Paused"), RUNNING, ("Resumed", "desiredState is Running", False), id="resumed is no start"),
        pytest.param(RUNNING, status("OOMKilled", OOM.message, termination=OOM), ("OOMKilled", OOM.message, True), id="an end without a restart"),
        pytest.param(RUNNING, status("Completed", termination=DONE), ("Completed", "", False), id="a good end"),
        pytest.param(
            RUNNING, status("BackOff", "restarting after OOMKilled", termination=OOM, restarts=1), ("OOMKilled", f"{OOM.message}; restart 1", True),
            id="an end before a restart is told by its own reason",
        ),
        pytest.param(
            RUNNING, status("BackOff", "restarting after Completed", termination=DONE, restarts=1), ("Completed", "exit code 0; restart 1", False),
            id="a good end before a restart",
        ),
        pytest.param(
            status("BackOff", termination=OOM, restarts=1), dataclasses.replace(RUNNING, termination=OOM, restarts=1),
            ("Started", "busybox started in 3 ms", False), id="the start after it",
        ),
        pytest.param(status("BackOff", termination=OOM, restarts=1), status("BackOff", termination=OOM, restarts=1), None, id="waiting is told once"),
        pytest.param(RUNNING, dataclasses.replace(RUNNING, started_at="2026-01-01T00:00:09Z"), ("Started", "busybox started in 3 ms", False),
                     id="a restart so quick that nobody saw it down"),
        pytest.param(status("Starting"), status("StartFailed", "spec.user: none"), ("StartFailed", "spec.user: none", True), id="a failure"),
        pytest.param(RUNNING, status("Stopped", "desiredState is Stopped"), ("Stopped", "desiredState is Stopped", False), id="stopped on demand"),
    ],
)  # fmt: skip
def test_a_transition_is_told_once_and_truly(before, after, expected):
    found = happenings.find(before, after, image="busybox", silent=SILENT)
    assert (None if found is None else (found.reason, found.message, found.is_warning)) == expected
