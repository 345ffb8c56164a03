"""What is said of an end, and of a sandbox."""

from __future__ import annotations

import dataclasses
import signal

import pytest

from skerry_api import sandbox as api
from skerry_api.sandbox import TerminationReason
from skerry_node import model, report
from skerry_node.model import Life, Observed, Problem, Running, Stopping

KILLED = int(signal.SIGKILL)
LIMITS = model.Limits(memory_bytes=1 << 20, pids=8)


@pytest.mark.parametrize(
    ("status", "life", "counted", "expected"),
    [
        pytest.param(0, Life(), report.Counted(), (TerminationReason.COMPLETED, 0, None), id="all is well"),
        pytest.param(3 << 8, Life(), report.Counted(), (TerminationReason.ERROR, 3, None), id="an exit code"),
        pytest.param(KILLED, Life(), report.Counted(), (TerminationReason.ERROR, 137, "SIGKILL"), id="killed by somebody"),
        pytest.param(KILLED, Life(), report.Counted(oom_kills=1), (TerminationReason.OOM_KILLED, 137, "SIGKILL"), id="killed at its limit"),
        pytest.param(137 << 8, Life(), report.Counted(oom_kills=1), (TerminationReason.OOM_KILLED, 137, None), id="its child was"),
        pytest.param(0, Life(), report.Counted(oom_kills=1), (TerminationReason.COMPLETED, 0, None), id="a child was, and it coped"),
        pytest.param(2 << 8, Life(), report.Counted(forks_refused=3), (TerminationReason.PIDS_LIMIT, 2, None), id="it could not fork"),
        pytest.param(1 << 8, Life(), report.Counted(full="the volume data"), (TerminationReason.DISK_FULL, 1, None), id="it could not write"),
        pytest.param(0, Life(), report.Counted(full="the volume data"), (TerminationReason.COMPLETED, 0, None), id="full, and it coped"),
        pytest.param(0, Life(), report.Counted(forks_refused=3), (TerminationReason.COMPLETED, 0, None), id="it could not fork, and coped"),
        pytest.param(
            KILLED,
            Life(),
            report.Counted(oom_kills=1, forks_refused=3),
            (TerminationReason.OOM_KILLED, 137, "SIGKILL"),
            id="the kill counts",
        ),
        pytest.param(int(signal.SIGSEGV) | 0x80, Life(), report.Counted(), (TerminationReason.ERROR, 139, "SIGSEGV"), id="dumped core"),
        pytest.param(KILLED, Life(stopping=Stopping("Stopped", 1.0)), report.Counted(), (TerminationReason.STOPPED, 137, "SIGKILL"), id="stopped"),
        pytest.param(KILLED, Life(stopping=Stopping("Expired", 1.0)), report.Counted(), (TerminationReason.EXPIRED, 137, "SIGKILL"), id="expired"),
        pytest.param(None, Life(), report.Counted(), (TerminationReason.KEEPER_LOST, None, None), id="nobody saw it"),
    ],
)
def test_the_reason_is_the_truth(status, life, counted, expected):
    """The wait status, the kernel's counts and our own doing decide."""
    end = report.classify(status, life=life, counted=counted, finished_ns=1_700_000_000_123_456_789, limits=LIMITS)
    assert (end.reason, end.exit_code, end.signal) == expected
    assert end.finished_at == "2023-11-14T22:13:20.123456Z"


SANDBOX = api.Sandbox(metadata=api.Metadata(name="a", uid="u", generation=2), spec=api.SandboxSpec(image="busybox"))
RUNNING = Observed(uid="u", has_runtime=True, process=Running(7, 0, 1.0, handles_stop_signal=True), life=Life(started_ns=1, start_milliseconds=4))


def _status(observed: Observed, problem: Problem | None = None, sandbox: api.Sandbox = SANDBOX) -> api.SandboxStatus:
    desired = model.desire(sandbox, expires_objects=False)
    return report.status(sandbox, desired, observed, problem=problem, facts=report.Facts(addresses=("10.0.0.2",)), now="2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("observed", "problem", "phase", "ready", "reason"),
    [
        pytest.param(RUNNING, None, "Running", "True", "Running", id="all is well"),
        pytest.param(Observed(uid="u"), None, "Creating", "False", "Starting", id="on its way"),
        pytest.param(
            Observed(uid="u", has_image=False),
            Problem("ImageNotFound", "m", condition="ImageReady"),
            "Creating",
            "False",
            "ImageNotFound",
            id="no image",
        ),
        pytest.param(
            Observed(uid="u", life=Life(attempt=1, termination=api.Termination(TerminationReason.COMPLETED, 0))),
            None,
            "Succeeded",
            "False",
            "Completed",
            id="completed",
        ),
        pytest.param(
            Observed(uid="u", life=Life(attempt=1, termination=api.Termination(TerminationReason.OOM_KILLED, 137))),
            None,
            "Failed",
            "False",
            "OOMKilled",
            id="killed at its limit",
        ),
        pytest.param(
            Observed(uid="u", life=Life(termination=api.Termination(TerminationReason.START_FAILED), start_problem="InvalidUser")),
            None,
            "Failed",
            "False",
            "InvalidUser",
            id="a start that failed keeps its reason on a second look",
        ),
        pytest.param(
            Observed(uid="u", life=Life(termination=api.Termination(TerminationReason.COMPLETED, 0), start_problem="InvalidUser")),
            None,
            "Succeeded",
            "False",
            "Completed",
            id="and a later end its own",
        ),
    ],
)
def test_conditions_say_what_is(observed, problem, phase, ready, reason):
    """Phase is a summary; Ready carries the reason."""
    status = _status(observed, problem)
    found = next(condition for condition in status.conditions if condition.type == "Ready")
    assert (status.phase, found.status, found.reason) == (phase, ready, reason)
    assert {condition.type for condition in status.conditions} == {"Scheduled", "ImageReady", "RootfsReady", "NetworkReady", "Ready"}
    assert status.observed_generation == 2


def test_a_status_that_says_the_same_is_the_same():
    """Nothing is written when nothing changed: the times of unchanged conditions stay."""
    first = _status(RUNNING)
    again = report.status(
        dataclasses.replace(SANDBOX, status=first), model.desire(SANDBOX, expires_objects=False), RUNNING, problem=None,
        facts=report.Facts(addresses=("10.0.0.2",)), now="2027-07-07T00:00:00Z",
    )  # fmt: skip
    assert again == first
