"""The operator's part of a SandboxImage's status: what the nodes say, summed up."""

from __future__ import annotations

import dataclasses

import pytest

from skerry_api import image as api
from skerry_api.conditions import Condition
from skerry_api.node import NodeAmounts, NodeStatus, PreparedImage, SandboxNode
from skerry_operator import images

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
READY = Condition(type="Ready", status="True", reason="AgentReady")


def pulled(**changes: object):
    return dataclasses.replace(PreparedImage("u", "default/i", 1, "Pulled", DIGEST, 3 << 20), **changes)


def node(name, *prepared: PreparedImage, zone="a", sandboxes=0, **spec: object):
    status = NodeStatus(conditions=(READY,), prepared=prepared, allocated=NodeAmounts(sandboxes=sandboxes))
    return SandboxNode(name=name, labels=(("zone", zone),), status=status, **spec)


def image(**changes: object):
    return api.SandboxImage(**{"namespace": "default", "name": "i", "uid": "u", "generation": 1, "reference": "busybox", "prepull": (), **changes})


def decide(wanted, nodes, *, dead=()):
    return images.decide(wanted, nodes, is_alive=lambda name: name not in dead, now="2026-01-01T00:00:00Z")


def told(status):
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    return ready["status"], ready["reason"], status["progress"]


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [
        pytest.param(image(), [node("n1", pulled()), node("n2", pulled())], ("True", "Pulled", "2/2"), id="all is well"),
        pytest.param(image(), [node("n1", pulled()), node("n2")], ("False", "Pulling", "1/2"), id="one has not begun"),
        pytest.param(image(), [node("n1", pulled()), node("n2", pulled(state="Pulling", digest=""))], ("False", "Pulling", "1/2"), id="one is at it"),
        pytest.param(image(), [node("n1", pulled()), node("n2", pulled(state="Failed"))], ("False", "PullFailed", "1/2"), id="one fails"),
        pytest.param(image(generation=2), [node("n1", pulled())], ("False", "Pulling", "0/1"), id="the spec is newer"),
        pytest.param(image(uid="v"), [node("n1", pulled())], ("False", "Pulling", "0/1"), id="another object of the name"),
        pytest.param(image(prepull=(("zone", "b"),)), [node("n1"), node("n2", pulled(), zone="b")], ("True", "Pulled", "1/1"), id="selected"),
        pytest.param(image(prepull=(("zone", "c"),)), [node("n1", pulled())], ("False", "NoNode", "0/0"), id="none is meant"),
        pytest.param(image(prepull=None), [node("n1", pulled())], ("True", "NotWanted", "0/0"), id="nobody shall hold it"),
        pytest.param(image(), [], ("False", "NoNode", "0/0"), id="no node"),
    ],
)
def test_readiness_is_what_the_nodes_say(wanted, nodes, expected):
    """Ready when every living node that is meant holds it."""
    assert told(decide(wanted, nodes)) == expected


def test_a_silent_node_is_not_waited_for():
    """It neither counts nor holds anything back."""
    status = decide(image(), [node("n1", pulled()), node("n2")], dead={"n2"})
    assert (told(status), status["nodes"]) == (("True", "Pulled", "1/1"), ["n1"])


def test_digest_size_and_teller_are_those_of_the_most():
    """A tag that moved between two pulls: most nodes win, the first of them tells the layers."""
    nodes = [node("n1", pulled(digest=OTHER)), node("n2", pulled()), node("n3", pulled())]
    status = decide(image(), nodes)
    assert (status["digest"], status["sizeBytes"], status["size"], status["nodeName"]) == (DIGEST, 3 << 20, "3.0 MiB", "n2")
    assert status["image"] == "busybox"


def test_the_same_twice_changes_nothing():
    """Times of conditions stay while they say the same."""
    first = decide(image(), [node("n1", pulled())])
    known = tuple(Condition(each["type"], each["status"], each["reason"], "", each["lastTransitionTime"], 1) for each in first["conditions"])
    again = images.decide(
        image(status=api.ImageStatus(conditions=known)), [node("n1", pulled())], is_alive=lambda _: True, now="2027-01-01T00:00:00Z"
    )
    assert again == first


BUILD = api.Build(tag="app:1", dockerfile="FROM scratch")


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [
        pytest.param({}, [node("n2", sandboxes=1), node("n1", sandboxes=2)], "n2", id="the least used"),
        pytest.param({}, [node("n1", unschedulable=True), node("n2", sandboxes=9)], "n2", id="not a cordoned one"),
        pytest.param({"prepull": (("zone", "b"),)}, [node("n1"), node("n2", zone="b")], "n2", id="one that is meant"),
        pytest.param({"status": api.ImageStatus(node_name="n1")}, [node("n1", unschedulable=True), node("n2")], "n1", id="the one that was chosen"),
        pytest.param({"status": api.ImageStatus(node_name="gone")}, [node("n1")], "n1", id="another when that is gone"),
        pytest.param({}, [], None, id="none"),
    ],
)
def test_one_node_builds(wanted, nodes, expected):
    """And it alone is waited for."""
    status = decide(image(reference=None, build=BUILD, **{"prepull": None, **wanted}), nodes)
    assert (status["nodeName"], status["image"]) == (expected, "localhost/default/app:1")
    assert told(status)[:2] == ("False", "Building" if expected else "NoNode")
    if expected:
        done = [dataclasses.replace(each, status=dataclasses.replace(each.status, prepared=(pulled(state="Built"),))) for each in nodes]
        assert told(decide(image(reference=None, build=BUILD, **{"prepull": None, **wanted}), done)) == ("True", "Built", "1/1")
