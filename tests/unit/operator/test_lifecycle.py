"""What a sandbox needs from the operator, by the object alone."""

from __future__ import annotations

import pytest

from skerry_api.sandbox import DesiredState, Phase, RestartPolicy, TerminationReason
from skerry_operator import lifecycle
from skerry_operator.lifecycle import ConfirmScheduled, Expire, MarkLost, Place, Protect, Release, Wait
from tests.unit.operator.worlds import NOW, sandbox

_ENDED = {"ready": ("False", "Completed"), "end": TerminationReason.COMPLETED, "exit_code": 0}
_IDLE = {"ready": ("False", "IdleTimeout"), "end": TerminationReason.IDLE_TIMEOUT, "exit_code": 143}
_LOST = {"ready": ("False", "NodeLost"), "end": TerminationReason.NODE_LOST}


@pytest.mark.parametrize(
    ("value", "is_lost", "expected"),
    [
        pytest.param(sandbox(), False, None, id="all is well"),
        pytest.param(sandbox(node_name=None, finalizers=(), ready=None, scheduled=None), False, Place(), id="new"),
        pytest.param(sandbox(node_name="", finalizers=(), scheduled="False"), False, Place(), id="could not be placed before"),
        pytest.param(sandbox(finalizers=("other",)), False, Protect(), id="bound by hand"),
        pytest.param(sandbox(scheduled="False"), False, ConfirmScheduled(), id="bound, and says it is not"),
        pytest.param(sandbox(scheduled=None), False, None, id="bound; the agent says so with its first status"),
        pytest.param(sandbox(), True, MarkLost(), id="node lost"),
        pytest.param(sandbox(ready=None), True, MarkLost(), id="node lost before it was heard of"),
        pytest.param(sandbox(**_LOST), True, None, id="said already"),
        pytest.param(sandbox(**_LOST, policy=RestartPolicy.ALWAYS), True, None, id="said already of one that restarts"),
        pytest.param(sandbox(**_LOST, stays=0), True, None, id="lost: it may come back, its time has not begun"),
        pytest.param(sandbox(**_IDLE, delete_idle=True), False, Expire(), id="was idle for too long: goes at once"),
        pytest.param(sandbox(**_IDLE), False, None, id="was idle for too long: stays"),
        pytest.param(sandbox(**_IDLE, policy=RestartPolicy.ALWAYS, stays=10), False, Expire(), id="idle is the end under every policy"),
        pytest.param(sandbox(ready=("False", "Idle"), end=TerminationReason.ERROR, exit_code=1, stays=0), False, None, id="sleeps"),
        pytest.param(sandbox(ready=("False", "Paused"), end=TerminationReason.ERROR, exit_code=1, stays=0), False, None, id="paused"),
        pytest.param(sandbox(**_ENDED), True, None, id="finished before the node was lost: the reason stays"),
        pytest.param(sandbox(deleted=True), False, None, id="deleted: its node cleans up"),
        pytest.param(sandbox(deleted=True), True, Release(), id="deleted, and its node is lost"),
        pytest.param(sandbox(deleted=True, finalizers=("other",)), True, None, id="released already"),
        pytest.param(sandbox(deleted=True, node_name=None), False, Release(), id="deleted, and no node ever had it"),
        pytest.param(sandbox(deleted=True, node_name=None, finalizers=()), False, None, id="deleted unbound: never placed"),
        pytest.param(sandbox(**_ENDED), False, None, id="finished, stays"),
        pytest.param(sandbox(**_ENDED, stays=10), False, Expire(), id="its time is over"),
        pytest.param(sandbox(**_ENDED, stays=0), False, Expire(), id="goes at once"),
        pytest.param(sandbox(**_ENDED, stays=15), False, Wait(5.0), id="its time is not over"),
        pytest.param(sandbox(**_ENDED, stays=10, deleted=True), False, None, id="deleted already"),
        pytest.param(sandbox(**_ENDED, stays=0, policy=RestartPolicy.ALWAYS), False, None, id="starts again"),
        pytest.param(sandbox(**_ENDED, stays=0, desired=DesiredState.STOPPED), False, None, id="kept by a person"),
        pytest.param(sandbox(ready=("True", "Running"), end=TerminationReason.ERROR, exit_code=1, stays=0), False, None, id="runs again"),
        pytest.param(
            sandbox(ready=("False", "BackOff"), end=TerminationReason.ERROR, exit_code=1, stays=0, policy=RestartPolicy.ON_FAILURE),
            False,
            None,
            id="failed, and starts again",
        ),
        pytest.param(sandbox(**_ENDED, stays=0, policy=RestartPolicy.ON_FAILURE), False, Expire(), id="did not fail"),
        pytest.param(
            sandbox(ready=("False", "Expired"), end=TerminationReason.EXPIRED, exit_code=143, stays=0, policy=RestartPolicy.ALWAYS),
            False,
            Expire(),
            id="expired under every policy",
        ),
        pytest.param(
            sandbox(ready=("False", "Stopped"), end=TerminationReason.STOPPED, stays=0), False, None, id="stopped on demand, and about to start again"
        ),
    ],
)
def test_one_decision_for_every_state(value, is_lost, expected):
    """Whoever starts in the middle of anything decides the same."""
    assert lifecycle.decide(value, is_node_lost=is_lost, now=NOW) == expected


def test_lost_says_why_and_keeps_the_rest():
    """Ready is False with the reason, the end has it too, and it is not decided again."""
    before = sandbox()
    status = lifecycle.lost_status(before, now=NOW)
    ready = next(each for each in status.conditions if each.type == "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "NodeLost", "node a sends no heartbeat")
    assert ready.last_transition_time == "2026-01-01T12:00:00.000000Z"
    assert status.termination is not None
    assert status.termination.reason is TerminationReason.NODE_LOST
    assert (status.phase, status.restarts, status.address) == (Phase.LOST, 2, None)
    assert [each.type for each in status.conditions] == ["Scheduled", "Ready"]


def test_our_condition_is_written_beside_the_others():
    status = lifecycle.scheduled_status(sandbox(ready=None, scheduled=None), unschedulable="0/1 nodes", now=NOW)
    (condition,) = status.conditions
    assert (condition.type, condition.status, condition.reason, condition.message) == ("Scheduled", "False", "Unschedulable", "0/1 nodes")
    status = lifecycle.scheduled_status(sandbox(scheduled="False"), unschedulable=None, now=NOW)
    assert [(each.type, each.status) for each in status.conditions] == [("Scheduled", "True"), ("Ready", "True")]


@pytest.mark.parametrize(
    ("value", "expected"), [(sandbox(), True), (sandbox(**_ENDED), False), (sandbox(**_LOST), True), (sandbox(desired=DesiredState.STOPPED), True)]
)
def test_what_scheduling_counts(value, expected):
    """Not what is over; but what may come back."""
    assert lifecycle.takes_room(value) is expected
