"""The plan: one good base state, a table of changes to it, and what each asks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from skerry_api.bandwidth import Bandwidth
from skerry_api.ports import HostPort, Protocol, Published
from skerry_api.sandbox import NetworkMode, OnIdle, RestartPolicy, Termination, TerminationReason
from skerry_node import plan, steps
from skerry_node.model import Desired, Ended, Life, Limits, Observed, Running, Stopping
from skerry_node.network import rates

UID = "6f1c0c5e-1111-4222-8333-444455556666"
LIMITS = Limits(cpu_millicores=500, memory_bytes=64 << 20, pids=64)
COMPLETED = Termination(reason=TerminationReason.COMPLETED, exit_code=0)
PORTS = frozenset({Published(HostPort(Protocol.TCP, 8080), 80)})
FAILED = Termination(reason=TerminationReason.ERROR, exit_code=3)
IDLE = Termination(reason=TerminationReason.IDLE_TIMEOUT, exit_code=143)
LIMITED = Bandwidth(ingress=1_000_000)
ASLEEP = Life(is_asleep=True)
EXPIRED = Termination(reason=TerminationReason.EXPIRED, exit_code=143)


def wanted(**changes: Any) -> Desired:
    return dataclasses.replace(Desired(uid=UID, limits=LIMITS, network=NetworkMode.BRIDGE), **changes)


def running(**changes: Any) -> Observed:
    base = Observed(
        uid=UID, now_seconds=1000.0, has_runtime=True, process=Running(pid=7, attempt=0, since_seconds=900.0, handles_stop_signal=True),
        has_cgroup=True, limits=LIMITS, slot=5, has_writable=True,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def empty(**changes: Any) -> Observed:
    return dataclasses.replace(Observed(uid=UID, now_seconds=1000.0), **changes)


def resting(**changes: Any) -> Observed:
    """Ended and put to rest: files and slot kept."""
    base = empty(has_runtime=True, slot=5, has_writable=True, life=Life(attempt=1, termination=COMPLETED, finished_seconds=950.0))
    return dataclasses.replace(base, **changes)


def names(found: tuple[steps.Step, ...]) -> list[str]:
    return [type(step).__name__ for step in found]


START = ["EnsureRuntime", "AcquireLease", "EnsureWritable", "EnsureCgroup", "StartProcess"]
UNDO = ["KillProcess", "RemoveCgroup", "RemoveWritable", "RemoveLogs", "ReleaseLease", "RemoveRuntime", "ReleaseObject"]
deaf = Running(pid=7, attempt=0, since_seconds=900.0, handles_stop_signal=False)


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        pytest.param(wanted(), running(), [], id="all is well: nothing to do"),
        pytest.param(wanted(), empty(), START, id="nothing there yet"),
        pytest.param(wanted(bandwidth=LIMITED), running(), ["EnsureBandwidth"], id="no bandwidth in force"),
        pytest.param(wanted(bandwidth=LIMITED), running(rates=rates.rates(LIMITED)), [], id="the bandwidth is in force"),
        pytest.param(wanted(), running(rates=rates.rates(LIMITED)), ["EnsureBandwidth"], id="a bandwidth that nobody wants"),
        pytest.param(wanted(bandwidth=LIMITED), empty(), START, id="a start brings its bandwidth"),
        pytest.param(wanted(), empty(has_image=False), ["EnsureRuntime"], id="no image: no start"),
        pytest.param(wanted(has_past=True), empty(), ["EnsureRuntime"], id="its record is gone: what came of it first"),
        pytest.param(wanted(has_past=True), resting(slot=None, has_writable=False), [], id="and what had ended stays ended"),
        pytest.param(wanted(), running(limits=Limits(pids=1)), ["WriteLimits"], id="limits changed live"),
        pytest.param(wanted(disk_bytes=8192), running(disk_bytes=4096), ["WriteDisk"], id="its disk changed live"),
        pytest.param(wanted(disk_bytes=8192), running(), ["WriteDisk"], id="a disk limit that comes late: the step says why not"),
        pytest.param(wanted(), running(disk_bytes=4096), ["WriteDisk"], id="a disk limit taken off"),
        pytest.param(wanted(idle_seconds=60), running(active_at_seconds=941.0), [], id="idle, but not long enough"),
        pytest.param(wanted(idle_seconds=60), running(active_at_seconds=940.0), ["FallAsleep"], id="idle for long enough"),
        pytest.param(wanted(idle_seconds=60), running(), [], id="never looked at: not idle"),
        pytest.param(wanted(idle_seconds=60, on_idle=OnIdle.STOP), running(active_at_seconds=940.0), ["BeginStop"], id="idle: stopped"),
        pytest.param(wanted(idle_seconds=60, on_idle=OnIdle.DELETE), running(active_at_seconds=940.0), ["BeginStop"], id="idle: stopped first"),
        pytest.param(wanted(idle_seconds=60, is_paused=True), running(active_at_seconds=1.0, is_frozen=True), [], id="paused by its user: not idle"),
        pytest.param(wanted(idle_seconds=60), running(active_at_seconds=1.0, is_frozen=True, life=ASLEEP), [], id="sleeps"),
        pytest.param(wanted(idle_seconds=60), running(active_at_seconds=1.0, life=ASLEEP), ["Freeze"], id="to sleep: noted, not yet held still"),
        pytest.param(wanted(), running(is_frozen=True, life=ASLEEP), ["Rouse"], id="sleeps, and shall not any more"),
        pytest.param(wanted(idle_seconds=60, is_paused=True), running(is_frozen=True, life=ASLEEP), ["Rouse"], id="paused in its sleep"),
        pytest.param(
            wanted(restart_policy=RestartPolicy.ALWAYS), resting(life=Life(attempt=1, termination=IDLE)), [], id="idle for too long is over"
        ),
        pytest.param(
            wanted(on_idle=OnIdle.DELETE, expires_objects=True),
            resting(life=Life(attempt=1, termination=IDLE, finished_seconds=1000.0)),
            ["ExpireObject"],
            id="idle: deleted at once",
        ),
        pytest.param(wanted(on_idle=OnIdle.DELETE), resting(life=Life(attempt=1, termination=IDLE)), [], id="idle: the operator deletes"),
        pytest.param(wanted(ports=PORTS), empty(), [*START[:-1], "PublishPorts", "StartProcess"], id="ports before the program"),
        pytest.param(wanted(ports=PORTS), running(ports=PORTS, has_ports=True), [], id="ports published"),
        pytest.param(wanted(ports=PORTS), running(), ["PublishPorts"], id="ports flushed by somebody"),
        pytest.param(wanted(), running(has_ports=True), ["PublishPorts"], id="half of a port that nobody wants"),
        pytest.param(wanted(ports=PORTS), resting(ports=PORTS, has_ports=True), ["WithdrawPorts"], id="ended: its ports are free"),
        pytest.param(
            wanted(ports=PORTS, restart_policy=RestartPolicy.ALWAYS),
            resting(ports=PORTS, has_ports=True, life=Life(attempt=1, termination=FAILED, not_before_seconds=1001.0)),
            [],
            id="ports kept for the next start",
        ),
        pytest.param(wanted(is_paused=True), running(), ["Freeze"], id="to be paused"),
        pytest.param(wanted(is_paused=True), running(is_frozen=True), [], id="paused"),
        pytest.param(wanted(), running(is_frozen=True), ["Thaw"], id="to go on"),
        pytest.param(wanted(is_paused=True), empty(), START, id="paused before it ran: started first"),
        pytest.param(wanted(wants_process=False), running(is_frozen=True), ["BeginStop", "Thaw"], id="stop of a paused one"),
        pytest.param(
            wanted(wants_process=False), running(is_frozen=True, process=deaf), ["BeginStop", "Thaw", "KillProcess"], id="a deaf paused one"
        ),
        pytest.param(wanted(is_deleted=True), running(is_frozen=True), ["BeginStop", "Thaw"], id="deletion of a paused one"),
        pytest.param(
            wanted(wants_process=False),
            running(is_frozen=True, life=Life(stopping=Stopping("Stopped", 999.0))),
            ["Thaw"],
            id="still paused in a stop",
        ),
        pytest.param(wanted(), running(process=None), ["EnsureWritable", "StartProcess"], id="the child never became the program"),
        pytest.param(wanted(), running(process=Ended(0, is_known=False)), ["ResolveEnd"], id="ended, nobody knows how yet"),
        pytest.param(wanted(), running(process=Ended(0, is_known=True, status=0)), ["RecordEnd", "KillProcess", "RemoveCgroup"], id="ended: noted"),
        pytest.param(wanted(), resting(), [], id="completed, never restarted"),
        pytest.param(wanted(restart_policy=RestartPolicy.ON_FAILURE), resting(), [], id="completed, restarted on failure only"),
        pytest.param(
            wanted(restart_policy=RestartPolicy.ALWAYS), resting(), ["EnsureWritable", "EnsureCgroup", "StartProcess"], id="restarted always"
        ),
        pytest.param(
            wanted(restart_policy=RestartPolicy.ON_FAILURE),
            resting(life=Life(attempt=1, termination=FAILED)),
            ["EnsureWritable", "EnsureCgroup", "StartProcess"],
            id="failed, restarted on failure",
        ),
        pytest.param(
            wanted(restart_policy=RestartPolicy.ALWAYS),
            resting(life=Life(attempt=1, termination=FAILED, not_before_seconds=1001.0)),
            [],
            id="held back",
        ),
        pytest.param(
            wanted(restart_policy=RestartPolicy.ALWAYS), resting(life=Life(attempt=1, termination=EXPIRED)), [], id="an expired life is over"
        ),
        pytest.param(wanted(wants_process=False), running(), ["BeginStop"], id="stop on demand"),
        pytest.param(wanted(wants_process=False), running(process=deaf), ["BeginStop", "KillProcess"], id="stop, and it would not hear"),
        pytest.param(wanted(wants_process=False), running(life=Life(stopping=Stopping("Stopped", 995.0))), [], id="stopping, within its grace"),
        pytest.param(wanted(wants_process=False), running(life=Life(stopping=Stopping("Stopped", 990.0))), ["KillProcess"], id="its grace is over"),
        pytest.param(wanted(wants_process=False), resting(), ["MarkAtRest"], id="seen at rest"),
        pytest.param(wanted(wants_process=False), resting(life=Life(attempt=1, is_at_rest=True, termination=COMPLETED)), [], id="at rest"),
        pytest.param(
            wanted(),
            resting(life=Life(attempt=1, is_at_rest=True, termination=COMPLETED)),
            ["EnsureWritable", "EnsureCgroup", "StartProcess"],
            id="started again",
        ),
        pytest.param(wanted(active_seconds=101), running(), [], id="still has a second"),
        pytest.param(wanted(active_seconds=100), running(), ["BeginStop"], id="its active time is over"),
        pytest.param(wanted(seconds_after_finished=51), resting(), [], id="stays a second more"),
        pytest.param(wanted(seconds_after_finished=50), resting(), ["ExpireObject"], id="was kept long enough"),
        pytest.param(wanted(is_deleted=True), running(), ["BeginStop"], id="deleted while it runs"),
        pytest.param(
            wanted(is_deleted=True), running(process=Ended(0, is_known=True), has_logs=True), UNDO, id="deleted, ended: undone from leaf to root"
        ),
        pytest.param(wanted(is_deleted=True), empty(), ["ReleaseObject"], id="deleted, nothing here"),
        pytest.param(None, running(), ["KillProcess"], id="an orphan is killed"),
        pytest.param(None, running(process=None, has_logs=True), UNDO[:-1], id="an orphan's things go"),
        pytest.param(None, empty(), [], id="an orphan that is gone"),
    ],
)
def test_plan_repairs_only_what_differs(desired, observed, expected):
    """Whatever is missing is made, whatever is too much goes, and what is right is left alone."""
    assert names(plan.plan(desired, observed)) == expected


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        pytest.param(wanted(), running(), None, id="nothing to wait for"),
        pytest.param(wanted(active_seconds=150), running(), 1050.0, id="active time"),
        pytest.param(wanted(), running(life=Life(stopping=Stopping("Stopped", 995.0))), 1005.0, id="grace"),
        pytest.param(wanted(seconds_after_finished=60), resting(), 1010.0, id="kept after its end"),
        pytest.param(
            wanted(restart_policy=RestartPolicy.ALWAYS),
            resting(life=Life(attempt=1, termination=FAILED, not_before_seconds=1009.0)),
            1009.0,
            id="held back",
        ),
        pytest.param(None, empty(), None, id="nothing"),
    ],
)
def test_time_alone_changes_the_plan_at_the_deadline(desired, observed, expected):
    """The loop looks again exactly when time can have changed what is to do."""
    assert plan.deadline(desired, observed) == expected
