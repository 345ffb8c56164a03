"""What a policy says of names and addresses, and which ranges are closed."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from skerry_api import egress
from skerry_node.network import policy, ranges

RANGES = ranges.make_ranges(sandboxes=[ipaddress.ip_network("198.51.100.0/24")], cluster=["203.0.113.0/24"])


def parse(**wanted: Any) -> egress.Egress:
    return egress.parse_egress({"egress": wanted})


@pytest.mark.parametrize(
    ("host", "name", "expected"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.example.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "aexample.com", False),
        ("*", "anything", True),
    ],
)
def test_rules_mean_names(host, name, expected):
    """A star is for what lies below, however deep, and for nothing else."""
    assert policy.matches(egress.EgressRule(host=host), name) is expected


@pytest.mark.parametrize(
    ("wanted", "address", "expected"),
    [
        pytest.param({}, "8.8.8.8", True, id="all is well"),
        pytest.param({}, "10.0.0.1", False, id="private"),
        pytest.param({}, "198.51.100.1", False, id="a sandbox"),
        pytest.param({}, "203.0.113.9", False, id="the cluster"),
        pytest.param({}, "::ffff:10.0.0.1", False, id="private in another clothing"),
        pytest.param({}, "64:ff9b::a00:1", False, id="private by translation"),
        pytest.param({"allow": [{"cidr": "10.0.0.0/24"}]}, "10.0.0.1", True, id="private and allowed"),
        pytest.param({"allow": [{"cidr": "0.0.0.0/0"}]}, "169.254.169.254", False, id="metadata, whatever is allowed"),
        pytest.param({"allow": [{"host": "*"}]}, "10.0.0.1", False, id="a name opens no range"),
        pytest.param({"deny": [{"cidr": "8.8.8.8/32"}]}, "8.8.8.8", False, id="denied"),
    ],
)
def test_answers_never_point_into_closed_ranges(wanted, address, expected):
    """Rebinding: unless a rule by network opens the place."""
    assert policy.may_answer(parse(**wanted), RANGES, ipaddress.ip_address(address)) is expected


def test_a_question_is_something_that_leaves():
    """Under Deny only names of rules are looked up; a denied name never is."""
    deny = parse(default="Deny", allow=[{"cidr": "0.0.0.0/0"}, {"host": "a.b"}])
    assert [policy.may_look_up(deny, name) for name in ("a.b", "c.d")] == [True, False]
    allow = parse(deny=[{"host": "*.b"}])
    assert [policy.may_look_up(allow, name) for name in ("a.b", "c.d")] == [False, True]


def test_ports_of_all_rules_that_mean_a_name_are_opened():
    """One rule without ports opens all of them."""
    narrow = [{"host": "a.b", "ports": [{"port": 1}]}, {"host": "*.b", "ports": [{"port": 2, "protocol": "UDP"}]}]
    wanted = parse(default="Deny", allow=narrow)
    assert policy.opened_by(wanted, "a.b") == (egress.EgressPort(1), egress.EgressPort(2, egress.Protocol.UDP))
    assert policy.opened_by(wanted, "c") is None
    assert policy.opened_by(parse(default="Deny", allow=[*narrow, {"host": "*"}]), "a.b") == ()


def test_policies_have_digests_of_their_own():
    """The same policy has the same one, also when its manifest writes the defaults out."""
    assert policy.digest(parse()) == policy.digest(parse(default="Allow", allow=[], deny=[])) == policy.OPEN
    first, second = parse(default="Deny"), parse(default="Deny", allow=[{"host": "a"}])
    assert len({policy.digest(each) for each in (first, second, parse())}) == 3
    assert policy.digest(first) == policy.digest(parse(default="Deny"))


def test_egress_survives_rendering():
    """What is parsed is rendered and parsed again the same."""
    wanted = parse(default="Deny", allow=[{"cidr": "2001:db8::/32", "ports": [{"port": 53, "protocol": "UDP"}]}], deny=[{"host": "*.a"}])
    assert egress.parse_egress({"egress": egress.render_egress(wanted)}) == wanted
