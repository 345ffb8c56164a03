"""The picture in memory: sums are true whatever the order of events and answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_api.node import NodeAmounts
from skerry_api.sandbox import TerminationReason
from skerry_operator.inventory import Inventory
from tests.unit.operator.worlds import node, sandbox


def _given(inventory):
    return {each.node.name: each.given for each in inventory.candidates(lambda _: True)}


def _inventory():
    inventory = Inventory()
    for name in "ab":
        inventory.apply_node(node(name))
    return inventory


def _one(node_name="a", version="1"):
    return sandbox("x", node_name=node_name, cpu=100, version=version)


def test_bound_sandboxes_are_counted():
    inventory = _inventory()
    assert not inventory.apply_sandbox(_one())
    assert _given(inventory) == {"a": NodeAmounts(cpu_millicores=100, sandboxes=1), "b": NodeAmounts()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda _: None, (0, 1), id="waits: nothing is counted"),
        pytest.param(lambda i: i.assume("x", "a"), (1, 0), id="a bind in flight counts"),
        pytest.param(lambda i: (i.assume("x", "a"), i.unassume("x")), (0, 1), id="a failed bind does not"),
        pytest.param(lambda i: (i.assume("x", "a"), i.apply_answer(_one(version="2"))), (1, 0), id="answered"),
        pytest.param(
            lambda i: (i.assume("x", "a"), i.apply_answer(_one(version="2")), i.unassume("x")), (1, 0), id="a failure heard late changes nothing"
        ),
        pytest.param(
            lambda i: (i.apply_answer(_one(version="2")), i.apply_sandbox(_one(node_name=None, version="1"))),
            (1, 0),
            id="an old event",
        ),
        pytest.param(
            lambda i: (i.assume("x", "a"), i.apply_sandbox(_one(node_name=None, version="2"))), (1, 0), id="another's write while a bind is in flight"
        ),
        pytest.param(lambda i: (i.assume("x", "a"), i.forget_sandbox("x")), (0, 0), id="gone while a bind is in flight"),
        pytest.param(lambda i: (i.forget_sandbox("x"), i.apply_answer(_one(version="2"))), (0, 0), id="an answer does not bring it back"),
    ],
)
def test_a_bind_counts_once(change, expected):
    """From the decision on, and as long as it holds."""
    inventory = _inventory()
    inventory.apply_sandbox(_one(node_name=None))
    change(inventory)
    assert (_given(inventory)["a"].sandboxes, len(inventory.unbound())) == expected


def test_room_is_told_of():
    """Finished, or gone: those that wait should be looked at."""
    inventory = _inventory()
    inventory.apply_sandbox(_one())
    ended = sandbox("x", ready=("False", "Completed"), end=TerminationReason.COMPLETED, exit_code=0, version="2")
    assert inventory.apply_sandbox(ended)
    assert _given(inventory)["a"] == NodeAmounts()
    assert inventory.uids_on("a") == {"x"}
    assert not inventory.forget_sandbox("x")
    inventory.apply_sandbox(_one())
    assert inventory.forget_sandbox("x")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(node(version="2"), False, id="a heartbeat of status"),
        pytest.param(node(version="2", cpu=2000), True, id="more to give"),
        pytest.param(node(version="2", unschedulable=True), True, id="cordoned"),
        pytest.param(node(version="2", ready="False"), True, id="not ready"),
        pytest.param(node("b"), True, id="another"),
    ],
)
def test_nodes_that_offer_something_else_are_told_of(changed, expected):
    inventory = Inventory()
    inventory.apply_node(node())
    assert inventory.apply_node(changed) is expected


def test_a_node_with_sandboxes_is_not_forgotten():
    """Its object is gone; what was bound to it is still its."""
    inventory = _inventory()
    inventory.apply_sandbox(_one())
    inventory.forget_node("a")
    inventory.forget_node("b")
    assert inventory.node_names() == {"a"}
    assert inventory.uids_on("a") == {"x"}


def test_those_that_wait_longest_come_first():
    inventory = Inventory()
    for uid, created in (("young", "2026-01-02T00:00:00Z"), ("old", "2026-01-01T00:00:00Z")):
        inventory.apply_sandbox(sandbox(uid, node_name=None, created=created))
    assert inventory.unbound_uids() == ("old", "young")


_EVENTS = st.lists(st.tuples(st.sampled_from(["apply", "assume", "unassume", "forget"]), st.sampled_from("xyz"), st.sampled_from([None, "a", "b"])))


@given(_EVENTS)
def test_sums_are_what_a_recount_gives(events):
    """Whatever happened, in whatever order."""
    inventory = _inventory()
    for number, (kind, uid, place) in enumerate(events):
        if kind == "apply":
            inventory.apply_sandbox(sandbox(uid, node_name=place, cpu=7, version=str(number + 1)))
        elif kind == "assume" and place is not None and inventory.find_sandbox(uid) is not None:
            inventory.assume(uid, place)
        elif kind == "unassume":
            inventory.unassume(uid)
        elif kind == "forget":
            inventory.forget_sandbox(uid)
    for name, amounts in _given(inventory).items():
        count = len(inventory.uids_on(name))
        assert amounts == NodeAmounts(cpu_millicores=7 * count, sandboxes=count)
    assert len(inventory.unbound()) + sum(len(inventory.uids_on(name)) for name in "ab") == len(inventory.uids())
