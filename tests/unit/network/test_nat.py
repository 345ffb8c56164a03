"""The rules' text: one table for each bridge, replaced as a whole."""

from __future__ import annotations

import ipaddress

from skerry_node.network import nat

NETWORK = ipaddress.IPv4Network("10.99.0.0/24")


def test_the_old_table_goes_in_the_same_transaction():
    """Declared, deleted, made anew: no packet meets half of it, and the first load works like the second."""
    lines = nat.render_rules("skt1", NETWORK).split("\n")
    heads = [line for line in lines if "table inet" in line]
    assert heads == ["table inet skerry-skt1 {}", "delete table inet skerry-skt1", "table inet skerry-skt1 {"]


def test_every_filter_rule_is_about_the_bridge():
    """Nothing of the host's other traffic is judged."""
    rules = [line.strip() for line in nat.render_rules("skt1", NETWORK).split("\n")]
    for rule in rules:
        if rule.endswith(("drop", "accept")):
            assert '"skt1"' in rule


def test_bridges_have_tables_of_their_own():
    """Two agents on one machine do not replace each other's rules."""
    assert nat.table_name("skt1") != nat.table_name("skt2")
