"""Links, bridge and rules on the real kernel: what reaches what. Each defence is switched off once, to see that the probe would tell."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from skerry_api import egress
from skerry_node.keeper import link, wire
from skerry_node.network import bridge, firewall, ranges, ruleset
from tests.harness import claims

SECOND = claims.claim_range()
NETWORK = ipaddress.IPv4Network(f"10.{SECOND}.77.0/28")
OTHER_NETWORK = ipaddress.IPv4Network(f"10.{SECOND}.78.0/28")
OUTSIDE = f"10.{SECOND}.79.2"
GATEWAY = NETWORK[1]
GATEWAY_INTERFACE = ipaddress.ip_interface((GATEWAY, NETWORK.prefixlen))
MARK = claims.claim_mark("nw")
BRIDGE = f"skerry{MARK}"
LAYOUT = ruleset.Layout(BRIDGE, f"sk{MARK}-", (NETWORK,), (GATEWAY,), ranges.make_ranges(sandboxes=[NETWORK]))
POLICY = egress.parse_egress({"egress": {"allow": [{"cidr": f"10.{SECOND}.79.0/29"}]}})
"""Private ranges are closed; the one that plays the outside is allowed."""

INSIDE = """
import socket, sys
from skerry_node.keeper import link, wire
from skerry_node.kernel import syscalls

def connects(address, port, source=None):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if source:
            probe.bind((source, 0))
        try:
            probe.connect((address, port))
        except OSError as error:
            return False
        return True

listeners = []
def listen(address, port):
    listener = socket.create_server((address, port))
    listeners.append(listener)

def accept_from():
    listeners[-1].settimeout(2)
    return listeners[-1].accept()[1][0]

syscalls.unshare(syscalls.CLONE_NEWNET)
print("up", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Namespace:
    """A process in a network namespace of its own, which evaluates what it is told."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
        self._process = subprocess.Popen([sys.executable, "-c", INSIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._answer() == "up"
        self.fd = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)

    def do(self, expression: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()
        os.close(self.fd)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


class Net:
    """A bridge, and sandboxes made on it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.firewall = firewall.Firewall(BRIDGE, port_of=port_of, slot_of=slot_of)
        self.made: list[Namespace] = []

    def join(self, slot: int, *, isolated: bool = True) -> Namespace:
        self.firewall.ensure(slot, POLICY)
        inside = Namespace()
        self.made.append(inside)
        address = NETWORK[slot]
        mac = "02:58:" + ":".join(f"{byte:02x}" for byte in address.packed)
        with link.Rtnl() as rtnl:
            rtnl.create_veth(port(slot), peer_netns_fd=inside.fd, master_index=self.index, mac=mac, isolated=isolated)
        wanted = wire.Link(host_name="", bridge_index=0, mac=mac, address=str(address), prefix=NETWORK.prefixlen, gateway=str(GATEWAY))
        assert inside.do(f"link.configure_inside(wire.{wanted!r})") == "None"
        return inside


def port(slot: int) -> str:
    return f"sk{MARK}-{slot}"


def port_of(slot: int) -> firewall.Port:
    mac = "02:58:" + ":".join(f"{byte:02x}" for byte in NETWORK[slot].packed)
    return firewall.Port(slot, port(slot), mac, (NETWORK[slot],))


def slot_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | None:
    return int(address) - int(NETWORK[0]) if address in NETWORK else None


@pytest.fixture
def net() -> Iterator[Net]:
    ruleset.ensure_rules(LAYOUT)
    found = Net(bridge.ensure_bridge(BRIDGE, [GATEWAY_INTERFACE]))
    yield found
    for inside in found.made:
        inside.close()
    found.firewall.close()
    bridge.remove_bridge(BRIDGE)
    ruleset.remove_rules(BRIDGE)


@pytest.fixture
def outside(net: Net) -> Iterator[Namespace]:
    """A host beyond this one: it knows no way back to the sandboxes' range."""
    inside = Namespace()
    name = f"sk{MARK}-out"
    try:
        with link.Rtnl() as rtnl:
            rtnl.create_veth(name, peer_netns_fd=inside.fd, master_index=0, mac="02:58:00:00:00:01", isolated=False)
        subprocess.run(["ip", "address", "add", f"10.{SECOND}.79.1/29", "dev", name], check=True)
        wanted = wire.Link(host_name="", bridge_index=0, mac="", address=OUTSIDE, prefix=29, gateway=f"10.{SECOND}.79.4")
        inside.do(f"link.configure_inside(wire.{wanted!r})")
        yield inside
    finally:
        inside.close()


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def test_one_link_is_up_isolated_and_configured(net: Net):
    """The port on the bridge, the peer inside with its address, hardware address and route."""
    inside = net.join(2)
    assert _read(f"/sys/class/net/{port(2)}/brport/isolated") == "1"
    assert os.readlink(f"/sys/class/net/{port(2)}/master").endswith(BRIDGE)
    assert inside.do("'eth0' in [name for _, name in socket.if_nameindex()]") == "True"
    inside.do("listen('127.0.0.1', 80)")
    assert inside.do("connects('127.0.0.1', 80)") == "True"


def test_without_a_link_there_is_loopback_only(net: Net):
    """Mode None."""
    inside = Namespace()
    net.made.append(inside)
    assert inside.do("link.configure_inside(None)") == "None"
    inside.do("listen('127.0.0.1', 80)")
    assert inside.do("connects('127.0.0.1', 80)") == "True"
    assert inside.do(f"connects('{GATEWAY}', 80)") == "False"


@pytest.mark.parametrize("isolated", [pytest.param(True, id="isolated"), pytest.param(False, id="control: not isolated")])
def test_neighbours_do_not_reach_each_other(net: Net, *, isolated: bool):
    """By the ports alone: the rules, which see bridged frames only where br_netfilter is loaded, are taken away."""
    first, second = net.join(2, isolated=isolated), net.join(3, isolated=isolated)
    ruleset.remove_rules(BRIDGE)
    second.do("listen('0.0.0.0', 80)")
    assert first.do(f"connects('{NETWORK[3]}', 80)") == str(not isolated)


def test_the_host_is_closed_to_sandboxes_and_open_to_nothing_new(net: Net):
    """The gateway's own ports: refused by the rules, reached without them."""
    inside = net.join(2)
    with socket.create_server((str(GATEWAY), 0)) as server:
        where = f"connects('{GATEWAY}', {server.getsockname()[1]})"
        assert inside.do(where) == "False"
        ruleset.remove_rules(BRIDGE)
        assert inside.do(where) == "True"


def test_the_host_reaches_a_sandbox(net: Net):
    """What the node starts is answered: the answer is established traffic."""
    inside = net.join(2)
    inside.do("listen('0.0.0.0', 80)")
    with socket.create_connection((str(NETWORK[2]), 80), timeout=2):
        assert inside.do("accept_from()") == str(GATEWAY)


def test_what_leaves_carries_the_hosts_address(net: Net, outside: Namespace):
    """The world beyond sees the node, and needs no way to the sandboxes' range; without the rules nothing comes back."""
    inside = net.join(2)
    outside.do("listen('0.0.0.0', 80)")
    assert inside.do(f"connects('{OUTSIDE}', 80)") == "True"
    assert outside.do("accept_from()") == f"10.{SECOND}.79.1"
    ruleset.remove_rules(BRIDGE)
    assert inside.do(f"connects('{OUTSIDE}', 80)") == "False"


def test_a_link_goes_with_its_namespace(net: Net):
    """No link is ever deleted: closing the namespace is enough."""
    inside = Namespace()
    with link.Rtnl() as rtnl:
        rtnl.create_veth(port(2), peer_netns_fd=inside.fd, master_index=net.index, mac="02:58:00:00:00:02")
    assert link.link_index(port(2)) > 0
    inside.close()
    deadline = time.monotonic() + 180
    while os.path.exists(f"/sys/class/net/{port(2)}") and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(OSError, match=f"link {port(2)}: No such device"):
        link.link_index(port(2))


def test_a_refusal_names_the_link_and_keeps_the_number(net: Net):
    """A name that is taken, and a bridge that is none."""
    inside = net.join(2)
    with link.Rtnl() as rtnl:
        with pytest.raises(FileExistsError, match=f"create link {port(2)}: File exists"):
            rtnl.create_veth(port(2), peer_netns_fd=inside.fd, master_index=net.index, mac="02:58:00:00:00:02")
        with pytest.raises(OSError, match=f"create link {port(3)}"):
            rtnl.create_veth(port(3), peer_netns_fd=inside.fd, master_index=1 << 30, mac="02:58:00:00:00:03")
    net.join(4)


def test_the_bridge_keeps_its_hardware_address_as_ports_come_and_go(net: Net):
    """Left alone it takes the lowest of its ports', and sandboxes would talk to an address that is gone."""
    before = _read(f"/sys/class/net/{BRIDGE}/address")
    net.join(2)
    net.join(3)
    net.made.pop().close()
    assert _read(f"/sys/class/net/{BRIDGE}/address") == before == "02:58:" + ":".join(f"{byte:02x}" for byte in GATEWAY.packed)


def test_the_bridge_is_made_once_and_follows_the_range(net: Net):
    """Again is fine; another range replaces the address; IPv6 stays off."""
    assert bridge.ensure_bridge(BRIDGE, [GATEWAY_INTERFACE]) == net.index
    assert bridge.ensure_bridge(BRIDGE, [ipaddress.ip_interface((OTHER_NETWORK[1], OTHER_NETWORK.prefixlen))]) == net.index
    shown = subprocess.run(["ip", "-o", "address", "show", "dev", BRIDGE], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"inet6? (\S+)", shown) == [f"10.{SECOND}.78.1/28"]


def test_a_link_that_is_no_bridge_is_left_alone(net: Net):
    """Somebody else's link of our name: refused with a sentence, and never removed."""
    net.join(2)
    with pytest.raises(FileExistsError, match="is no bridge; remove it, or start the agent with another --bridge"):
        bridge.ensure_bridge(port(2), [GATEWAY_INTERFACE])
    bridge.remove_bridge(port(2))
    assert link.link_index(port(2)) > 0


def test_rules_loaded_twice_are_there_once(net: Net):
    """Replaced, not added to; removed twice is removed."""
    listing = ["nft", "-s", "list", "table", "inet", ruleset.table_name(BRIDGE)]
    before = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    ruleset.ensure_rules(LAYOUT)
    assert subprocess.run(listing, capture_output=True, text=True, check=True).stdout == before
    ruleset.remove_rules(BRIDGE)
    ruleset.remove_rules(BRIDGE)
    assert subprocess.run(listing, capture_output=True, check=False).returncode != 0
