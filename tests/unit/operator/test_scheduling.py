"""Where a sandbox goes, and what people hear when it goes nowhere."""

from __future__ import annotations

import dataclasses

import pytest

from skerry_api.node import NodeAmounts, NodeImage, Taint
from skerry_api.ports import HostPort, Port, Protocol
from skerry_api.sandbox import NetworkMode, NetworkSpec, OnIdle, Toleration, Ttl
from skerry_operator import scheduling
from skerry_operator.scheduling import Bound, Candidate, Unschedulable
from tests.unit.operator.worlds import MIB, node, spec

_GIVEN = NodeAmounts(cpu_millicores=500, memory_bytes=500 * MIB, sandboxes=5)
_NOTHING = NodeAmounts()
_TAINT = Taint("dedicated", "x")


_TAKEN = frozenset({HostPort(Protocol.TCP, 8080)})
_OTHERS = frozenset({HostPort(Protocol.UDP, 8080), HostPort(Protocol.TCP, 8081), HostPort(Protocol.TCP, 8080, "10.0.0.1")})


def _holding(name, reference, size_bytes, *, given=_NOTHING):
    bare = node(name)
    return Candidate(
        dataclasses.replace(bare, status=dataclasses.replace(bare.status, images=(NodeImage(reference, "sha256:0", size_bytes),))), given
    )


def _featured(name, *features: str):
    bare = node(name)
    return Candidate(dataclasses.replace(bare, status=dataclasses.replace(bare.status, features=features)))


def _with_port(address: str):
    """Asks for TCP port 8080 of its node."""
    port = Port(80, host_port=8080, host_address=address)
    return dataclasses.replace(spec(0), network=NetworkSpec(ports=(port,)))


@pytest.mark.parametrize(
    ("wanted", "candidates", "expected"),
    [
        pytest.param(spec(), [Candidate(node())], Bound("a"), id="the only one"),
        pytest.param(spec(), [Candidate(node("b")), Candidate(node("a"))], Bound("a"), id="equals: the first by name"),
        pytest.param(spec(), [Candidate(node("a"), _GIVEN), Candidate(node("b"))], Bound("b"), id="the least used"),
        pytest.param(
            spec(), [Candidate(node("a"), NodeAmounts(sandboxes=1)), Candidate(node("b"))], Bound("b"), id="fewest sandboxes, where nothing is asked"
        ),
        pytest.param(
            spec(100), [Candidate(node("a", cpu=100)), Candidate(node("b", cpu=2000), NodeAmounts(500, 0, 0, 1))], Bound("b"), id="the larger one"
        ),
        pytest.param(spec(500), [Candidate(node(), _GIVEN)], Bound("a"), id="fits to the last millicore"),
        pytest.param(spec(0, 500 * MIB), [Candidate(node(), _GIVEN)], Bound("a"), id="fits to the last byte"),
        pytest.param(spec(501), [Candidate(node(), _GIVEN)], "0/1 nodes are available: 1 Insufficient cpu.", id="one millicore short"),
        pytest.param(spec(0, 500 * MIB + 1), [Candidate(node(), _GIVEN)], "0/1 nodes are available: 1 Insufficient memory.", id="one byte short"),
        pytest.param(
            spec(501, 501 * MIB),
            [Candidate(node(), _GIVEN)],
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
            id="both",
        ),
        pytest.param(spec(), [Candidate(node(count=5), _GIVEN)], "0/1 nodes are available: 1 Too many sandboxes.", id="too many"),
        pytest.param(spec(), [Candidate(node(cpu=0), _GIVEN)], Bound("a"), id="who asks for no CPU fits where there is none"),
        pytest.param(spec(), [Candidate(node(ready="False"))], "0/1 nodes are available: 1 node(s) were not ready.", id="not ready"),
        pytest.param(spec(), [Candidate(node(ready=""))], "0/1 nodes are available: 1 node(s) were not ready.", id="never reported"),
        pytest.param(spec(), [Candidate(node(), is_alive=False)], "0/1 nodes are available: 1 node(s) were lost.", id="lost"),
        pytest.param(
            spec(node_selector=(("zone", "x"),)),
            [Candidate(node(labels=(("zone", "y"),)))],
            "0/1 nodes are available: 1 node(s) didn't match the node selector.",
            id="selector",
        ),
        pytest.param(
            spec(node_selector=(("zone", "x"),)),
            [Candidate(node("a")), Candidate(node("b", labels=(("disk", "ssd"), ("zone", "x"))), _GIVEN)],
            Bound("b"),
            id="selected",
        ),
        pytest.param(
            spec(), [Candidate(node(taints=(_TAINT,)))], "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: x}.", id="tainted"
        ),
        pytest.param(spec(tolerations=(Toleration("dedicated", value="x"),)), [Candidate(node(taints=(_TAINT,)))], Bound("a"), id="tolerated"),
        pytest.param(spec(), [_holding("a", "x", 0), _holding("b", "docker.io/library/busybox:latest", 4 * MIB)], Bound("b"), id="holds the image"),
        pytest.param(
            spec(),
            [Candidate(node("a")), _holding("b", "docker.io/library/busybox:latest", 4 * MIB, given=_GIVEN)],
            Bound("a"),
            id="a small image is no reason to crowd",
        ),
        pytest.param(
            spec(),
            [Candidate(node("a"), NodeAmounts(sandboxes=3)), _holding("b", "busybox:latest", 900 * MIB, given=NodeAmounts(sandboxes=4))],
            Bound("b"),
            id="a large one is worth some room",
        ),
        pytest.param(spec(init=True), [Candidate(node()), _featured("b", "init")], Bound("b"), id="a feature"),
        pytest.param(
            spec(init=True),
            [Candidate(node()), _featured("b", "freezer")],
            "0/2 nodes are available: 2 node(s) lacked the feature init.",
            id="a feature that no node has",
        ),
        pytest.param(
            spec(network=NetworkSpec(mode=NetworkMode.HOST)),
            [_featured("a", "freezer")],
            "0/1 nodes are available: 1 node(s) lacked the feature host-network.",
            id="the host's network",
        ),
        pytest.param(
            spec(ttl=Ttl(idle_seconds=5)), [Candidate(node())], "0/1 nodes are available: 1 node(s) lacked the feature freezer.", id="to sleep"
        ),
        pytest.param(spec(ttl=Ttl(idle_seconds=5, on_idle=OnIdle.STOP)), [Candidate(node())], Bound("a"), id="to stop when idle"),
        pytest.param(spec(), [], "0/0 nodes are available: no SandboxNode is registered.", id="no node"),
        pytest.param(
            spec(501),
            [Candidate(node("a", unschedulable=True)), Candidate(node("b"), _GIVEN), Candidate(node("c"), _GIVEN)],
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.",
            id="counts by reason",
        ),
        pytest.param(
            _with_port("127.0.0.1"),
            [Candidate(node("a"), ports=_TAKEN), Candidate(node("b"), ports=_TAKEN), Candidate(node("c"), ports=_OTHERS)],
            Bound("c"),
            id="host ports are free",
        ),
        pytest.param(
            _with_port(""),
            [Candidate(node("a"), ports=_TAKEN), Candidate(node("b", unschedulable=True))],
            "0/2 nodes are available: 1 node(s) didn't have free ports for the requested host ports, 1 node(s) were unschedulable.",
            id="host ports are taken",
        ),
    ],
)
def test_a_sandbox_goes_to_the_least_used_node_it_fits_on(wanted, candidates, expected):
    """Or the message counts, for each reason, how many nodes say no."""
    found = scheduling.schedule(wanted, candidates)
    assert (found.message if isinstance(found, Unschedulable) else found) == expected
    assert not isinstance(found, Unschedulable) or found.reason != "Undecided"


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration("dedicated", value="x"), True),
        (Toleration("dedicated", value="y"), False),
        (Toleration("dedicated", operator="Exists"), True),
        (Toleration("other", operator="Exists"), False),
        (Toleration(operator="Exists"), True),
        (Toleration("dedicated", value="x", effect="NoSchedule"), True),
        (Toleration("dedicated", value="x", effect="NoExecute"), False),
    ],
)
def test_tolerations_match_as_those_of_pods(toleration, expected):
    assert scheduling.is_tolerated(_TAINT, [toleration]) is expected


def test_sandboxes_spread():
    """Nine equal ones on three nodes: three each."""
    given = dict.fromkeys("abc", 0)
    for _ in range(9):
        candidates = [Candidate(node(name), NodeAmounts(cpu_millicores=100 * count, sandboxes=count)) for name, count in given.items()]
        decision = scheduling.schedule(spec(100), candidates)
        assert isinstance(decision, Bound)
        given[decision.node_name] += 1
    assert given == {"a": 3, "b": 3, "c": 3}
