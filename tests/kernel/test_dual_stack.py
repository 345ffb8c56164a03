"""Sandboxes of a node with two address ranges, on the real kernel. What the policy says of single flows in both families: test_egress.py."""

from __future__ import annotations

import ipaddress
import os
import secrets
import subprocess

import pytest

from tests.harness import standalone, talk
from tests.kernel.test_ports import SLEEP, both, free_port, pid_of

RANGE = ipaddress.IPv6Network(f"fd58:5e:{os.getpid() & 0xFFFF:x}:{secrets.randbelow(1 << 16):x}::/64")
NEAR, FAR = f"2001:db8:{os.getpid() & 0xFFFF:x}::1", f"2001:db8:{os.getpid() & 0xFFFF:x}::2"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dual")
    with standalone.running_busybox(str(directory), tag="ds", flags=("--shells=0", f"--address-range6={RANGE}")) as agent:
        yield agent


@pytest.fixture(scope="module")
def beyond(node):
    with talk.outside(f"{'sk' + node.place.bridge.removeprefix('skerry')}o", f"10.253.{secrets.randbelow(250)}.1/30", "10.253.255.2/30") as pid:
        subprocess.run(["ip", "address", "add", f"{NEAR}/64", "dev", f"{'sk' + node.place.bridge.removeprefix('skerry')}o", "nodad"], check=True)
        subprocess.run([*talk.enter(pid), "ip", "address", "add", f"{FAR}/64", "dev", "eth0", "nodad"], check=True)
        yield pid


def test_each_has_an_address_of_both_families(node):
    """At the same place in each range, usable at once; the next agent finds them again."""
    with node.sandbox("a", *SLEEP) as first, node.sandbox("b", *SLEEP) as second:
        for name, found in (("a", first), ("b", second)):
            four, six = map(ipaddress.ip_address, found.status.addresses)
            network = ipaddress.ip_network(node.place.address_range)
            assert (str(four), int(four) - int(network[0])) == (found.status.address, int(six) - int(RANGE[0]))
            inside = node.client.exec(name, ["sh", "-c", "ip -6 addr show dev eth0 scope global; ip -6 route; cat /etc/hosts"]).stdout.decode()
            assert f"inet6 {six}/64 scope global" in inside
            assert "tentative" not in inside
            assert f"default via {RANGE[1]} dev eth0" in inside
            assert f"{four}\t{name}\n{six}\t{name}\n" in inside
        node.kill()
        node.start()
        assert node.wait("a", lambda found: found.status.addresses).status.addresses == first.status.addresses


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_published_port_is_reached_by_both(node, beyond, protocol):
    """From outside with the client's own address, from the node, from a neighbour by way of the node's; nobody reaches the sandbox itself."""
    port = free_port()
    with node.sandbox("a", *SLEEP, **both(port)) as found, node.sandbox("b", *SLEEP), talk.server(pid_of(node, "a"), 80, "a"):
        gateway, neighbour = str(RANGE[1]), pid_of(node, "b")
        assert talk.ask(beyond, protocol, NEAR, port) == f"a {FAR}"
        assert talk.ask(None, protocol, NEAR, port) == f"a {NEAR}"
        assert talk.ask(neighbour, protocol, gateway, port) == f"a {gateway}"
        assert talk.ask(None, protocol, node.place.address_range.replace(".0.0/16", ".0.1"), port).startswith("a ")
        assert talk.ask(neighbour, protocol, found.status.addresses[1], 80, seconds=0.5) == "nothing"


def test_what_is_closed_is_closed_by_both(node, beyond):
    """The node is closed, and counted; a network that is allowed is reached with the node's address, and closed again by the next patch."""
    allowed = {"network": {"egress": {"default": "Deny", "allow": [{"cidr": f"{FAR}/128", "ports": [{"port": 80}]}]}}}
    with node.sandbox("a", *SLEEP, **allowed), talk.server(beyond, 80, "far"):
        own = pid_of(node, "a")
        assert talk.ask(own, "TCP", FAR, 80) == f"far {NEAR}"
        before = node.client.usage("a")["network"]["deniedPackets"]
        assert talk.ask(own, "TCP", str(RANGE[1]), 80, seconds=0.5) == "nothing"
        assert talk.ask(own, "TCP", NEAR, 80, seconds=0.5) == "nothing"
        assert node.client.usage("a")["network"]["deniedPackets"] >= before + 2
        shown = subprocess.run(
            ["ip", "-6", "-o", "addr", "show", "dev", node.place.bridge, "scope", "link"], capture_output=True, text=True, check=True
        )
        link_local = shown.stdout.split()[3].partition("/")[0]
        with talk.server(os.getpid(), port := free_port(), "node"):
            assert talk.ask(None, "TCP", str(RANGE[1]), port).startswith("node ")
            assert talk.ask(own, "TCP", f"{link_local}%eth0", port, seconds=0.5) == "nothing"


def test_nobody_speaks_for_another_address(node, beyond):
    """A source that is not its own never leaves the port; its own does."""
    with node.sandbox("a", *SLEEP) as found, talk.server(beyond, 80, "far"):
        assert len(found.status.addresses) == 2
        refused = node.client.usage("a")["network"]["deniedPackets"]
        assert talk.ask(pid_of(node, "a"), "TCP", FAR, 80) == f"far {NEAR}"
        subprocess.run([*talk.enter(pid_of(node, "a")), "ip", "address", "add", "2001:db8:5e::7/128", "dev", "eth0", "nodad"], check=True)
        code = (
            "import socket; s = socket.socket(socket.AF_INET6); s.settimeout(0.7); s.bind(('2001:db8:5e::7', 0))\n"
            f"try:\n s.connect(('{FAR}', 80)); print('open')\nexcept OSError: print('shut')"
        )
        done = subprocess.run([*talk.enter(pid_of(node, "a")), "python3", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "shut\n"
        assert node.client.usage("a")["network"]["deniedPackets"] > refused
