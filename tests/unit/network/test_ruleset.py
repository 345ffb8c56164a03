"""The text of the rules that all sandboxes of a bridge share."""

from __future__ import annotations

import ipaddress

from skerry_node.network import ranges, ruleset

NETWORK = ipaddress.IPv4Network("10.99.0.0/24")
LAYOUT = ruleset.Layout("skt1", "skt1-", (NETWORK,), (NETWORK[1],), ranges.make_ranges(sandboxes=[NETWORK]))


def test_rules_are_replaced_and_sets_of_sandboxes_are_not():
    """Every chain with rules is emptied first; what the agent keeps in sets outlives it."""
    text = ruleset.render_rules(LAYOUT)
    flushed = {line.split()[-1] for line in text.splitlines() if line.startswith("flush")}
    chains = {line.split()[1] for line in text.splitlines() if line.strip().startswith("chain ")}
    assert chains <= flushed
    assert flushed - chains == {"closed4", "closed6", "forbidden4", "forbidden6"}


def test_every_hook_is_about_the_bridge():
    """Nothing of the host's other traffic is judged: base chains send only the bridge's packets on."""
    text = ruleset.render_rules(LAYOUT)
    for name in ("prerouting", "forward", "input", "leaving", "postrouting"):
        for part in text.split(f"    chain {name} {{\n")[1:]:
            for rule in part.split("}\n")[0].strip().splitlines():
                assert "skt1" in rule


def test_bridges_have_tables_of_their_own():
    """Two agents on one machine do not replace each other's rules."""
    assert ruleset.table_name("skt1") != ruleset.table_name("skt2")
