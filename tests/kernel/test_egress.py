"""What a sandbox reaches under which policy: a table of flows on a node in a namespace of its own, with the real rules and resolver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.harness import egress_flows, machine
from tests.harness.agents import python_environment


@pytest.fixture(scope="module")
def report() -> Any:
    """Everything that was tried, once: in a namespace where nothing of the machine's own is in reach."""
    assert shutil.which("nmap"), "install nmap and iputils-ping: make test-packages does"
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.egress_node"],
        env={**python_environment(), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False, timeout=300 * machine.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_each_flow_goes_as_the_policy_says(report: Any) -> None:
    """Networks, ports, protocols, names, both families, fragments, ICMP, look-ups, spoofed sources."""
    assert report["flows"] == {flow.id: flow.gives for flow in egress_flows.FLOWS}


def test_the_table_is_whole() -> None:
    """Each flow has a name of its own, and what is shut somewhere is open elsewhere: the probes can tell."""
    assert len({flow.id for flow in egress_flows.FLOWS}) == len(egress_flows.FLOWS) >= 60
    kinds = {(flow.tries.partition("(")[0], flow.gives) for flow in egress_flows.FLOWS}
    assert {(kind, gives) for kind in ("tcp", "udp", "ping", "named") for gives in ("open", "shut")} <= kinds


def test_a_port_scan_finds_what_is_allowed(report: Any) -> None:
    """Nmap against a server, the node, a neighbour, the node's public address, a private one: the allowed port, and the resolver."""
    assert report["scan"] == ["198.51.100.2 443", "10.88.0.1 53"]


def test_a_tightened_policy_cuts_what_stands(report: Any) -> None:
    """A flow that is open stays so under another policy that allows it, stops under one that does not, and never serves the slot's next owner."""
    found = report["established"]
    assert (found["open"], found["another rule"], found["tightened"], found["opened again"]) == ("open", "open", "shut", "open")
    assert (found["closed slot"], found["next owner"]) == ("shut", "shut")
    assert found["denied"] > 0


def test_the_rules_outlive_the_agent(report: Any) -> None:
    """They hold while it is dead; the next one loads them again under flows that stand, and knows what it finds; flushed, all is closed."""
    found = report["restart"]
    assert {key: value for key, value in found.items() if key.startswith(("dead", "next"))} == {
        "dead: allowed": "open", "dead: a name": "open", "dead: denied": "shut", "dead: held": "open",
        "next: held": "open", "next: a name": "open", "next: denied": "shut",
    }  # fmt: skip
    assert found["tables"] is False
    assert (found["flushed: nothing"], found["flushed: allowed"], found["flushed: denied"]) == ("shut", "open", "shut")


def test_nothing_of_the_node_is_in_our_namespace(report: Any) -> None:
    """Its links and tables went with it."""
    assert not os.path.exists("/sys/class/net/skerryegr")
    assert "skerryegr" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
