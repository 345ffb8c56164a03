"""A node in a network namespace of its own: bridge, rules, resolver, two sandboxes on it, and a world outside. Evaluates every flow of egress_flows.

Run as a program by tests/kernel/test_egress.py, as root; prints one object of JSON: what came of each flow, by its id.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

from skerry_api import egress
from skerry_node.keeper import link
from skerry_node.kernel import syscalls
from skerry_node.network import bridge, firewall, ranges, refusals, ruleset
from skerry_node.resolver import server
from tests.harness import egress_dns, egress_flows

NETWORK, NETWORK6 = ipaddress.IPv4Network("10.88.0.0/24"), ipaddress.IPv6Network("fd00:88::/64")
BRIDGE = "skerryegr"
RANGES = ranges.make_ranges(sandboxes=[NETWORK, NETWORK6], cluster=["203.0.113.64/26"])
LAYOUT = ruleset.Layout(BRIDGE, "skegr-", (NETWORK, NETWORK6), (NETWORK[1], NETWORK6[1]), RANGES)


def port_of(slot: int) -> firewall.Port:
    mac = "02:58:" + ":".join(f"{byte:02x}" for byte in NETWORK[slot].packed)
    return firewall.Port(slot, f"skegr-{slot}", mac, (NETWORK[slot], NETWORK6[slot]))


def slot_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | None:
    network = NETWORK if address.version == 4 else NETWORK6
    return int(address) - int(network[0]) if address in network else None


def sh(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True)


class Child:
    """A process in a namespace of its own that evaluates lines (egress_inside.py)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.harness.egress_inside", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        child = cls(process)
        assert await child._answer() == "up"
        return child

    async def do(self, expression: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(expression.encode() + b"\n")
        return await self._answer()

    def kill(self) -> None:
        self._process.kill()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the child ended")
        return json.loads(line)


class Node:
    def __init__(self) -> None:
        sh("ip link set lo up")
        ruleset.ensure_rules(LAYOUT)
        self.index = bridge.ensure_bridge(BRIDGE, [ipaddress.ip_interface((net[1], net.prefixlen)) for net in (NETWORK, NETWORK6)])
        self.firewall = firewall.Firewall(BRIDGE, port_of=port_of, slot_of=slot_of)
        self.refusals = refusals.Refusals(BRIDGE, port_of=port_of)
        self.policies: dict[int, egress.Egress] = {}
        self.children: list[Child] = []

    def set_policy(self, slot: int, policy: dict[str, Any]) -> None:
        self.policies[slot] = egress.parse_egress({"egress": policy})
        self.firewall.ensure(slot, self.policies[slot])

    def find_guest(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> server.Guest | None:
        slot = slot_of(address)
        return server.Guest(slot, self.policies[slot]) if slot is not None and slot in self.policies else None

    async def add_outside(self) -> Child:
        child = await self._child()
        sh(f"ip link add out0 type veth peer name eth0 netns {child.pid}", "ip link set out0 up")
        for address in ("198.51.100.1/24", "203.0.113.1/24", "192.168.7.1/24", "169.254.0.1/16", "2001:db8:77::1/64", "fd00:7::1/64"):
            sh(f"ip address add {address} dev out0" + (" nodad" if ":" in address else ""))
        addresses = [
            "198.51.100.2/24",
            "198.51.100.3/24",
            "198.51.100.4/24",
            "203.0.113.2/24",
            "203.0.113.66/24",
            "192.168.7.2/24",
            "169.254.169.254/16",
        ]
        addresses += ["2001:db8:77::2/64", "2001:db8:77::3/64", "fd00:7::2/64"]
        await child.do(f"configure({addresses!r}, '198.51.100.1', '2001:db8:77::1')")
        await child.do("serve()")
        return child

    async def add_sandbox(self, slot: int) -> Child:
        child = await self._child()
        port = port_of(slot)
        fd = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
        with link.Rtnl() as rtnl:
            rtnl.create_veth(port.link, peer_netns_fd=fd, master_index=self.index, mac=port.mac)
        os.close(fd)
        await child.do(f"configure(['{NETWORK[slot]}/24', '{NETWORK6[slot]}/64'], '{NETWORK[1]}', '{NETWORK6[1]}')")
        return child

    async def _child(self) -> Child:
        child = await Child.start()
        self.children.append(child)
        return child

    def admit(self, *arguments: Any) -> None:
        """By the firewall that there is now: it is exchanged when the agent is."""
        self.firewall.admit(*arguments)

    def denied(self, slot: int) -> int:
        """Asked for by itself, and found among all."""
        found = self.refusals.count(slot)
        assert self.refusals.read([slot])[slot] >= found
        return found


async def try_flow(node: Node, inside: Child, outside: Child, flow: egress_flows.Flow) -> Any:
    node.firewall.remove(2)  # what was let in for the flow before goes
    node.set_policy(2, flow.policy)
    before = node.denied(2)
    gives = await inside.do(f"expecting({flow.gives == egress_flows.OPEN}) or {flow.tries}")
    if flow.tries.startswith("spoof"):
        return "seen" if await outside.do(f"saw({gives!r})") else "not seen"
    if flow.tries.startswith("advertise"):
        return "not seen" if node.denied(2) > before else "seen"
    return gives


async def try_established(node: Node, inside: Child) -> dict[str, Any]:
    """A flow that stands, under a policy that closes it, and one that opens it again; then the slot's next owner, and a world without an agent."""
    found: dict[str, Any] = {}
    node.set_policy(2, {})
    found["open"] = await inside.do("expecting(True) or hold('198.51.100.2', 80)")
    node.set_policy(2, {"deny": [{"cidr": "198.51.100.3/32"}]})
    found["another rule"] = await inside.do("expecting(True) or push()")
    began = time.monotonic()
    node.set_policy(2, {"default": "Deny"})
    found["seconds"] = time.monotonic() - began
    found["tightened"] = await inside.do("expecting(False) or push()")
    node.set_policy(2, {})
    found["opened again"] = await inside.do("expecting(True) or push()")
    node.firewall.remove(2)
    found["closed slot"] = await inside.do("expecting(False) or push()")
    node.set_policy(2, {"default": "Deny"})
    found["next owner"] = await inside.do("expecting(False) or push()")
    found["denied"] = node.denied(2)
    return found


async def try_restart(node: Node, inside: Child) -> dict[str, Any]:
    """The agent is dead, then there is a next one, which loads the rules again and finds what was."""
    node.set_policy(2, {"default": "Deny", "allow": [{"cidr": "198.51.100.2/32"}, {"host": "a.example.com"}]})
    await inside.do("expecting(True) or lookup('a.example.com')")
    node.firewall.close()
    found = {"dead: allowed": await inside.do("expecting(True) or tcp('198.51.100.2', 80)")}
    found["dead: a name"] = await inside.do("expecting(True) or tcp('198.51.100.3', 80)")
    found["dead: denied"] = await inside.do("expecting(False) or tcp('198.51.100.4', 80)")
    found["dead: held"] = await inside.do("expecting(True) or hold('198.51.100.2', 80)")
    ruleset.ensure_rules(LAYOUT)
    digest = node.policies[2]
    node.firewall = firewall.Firewall(BRIDGE, port_of=port_of, slot_of=slot_of)
    node.firewall.ensure(2, digest)
    found["next: held"] = await inside.do("expecting(True) or push()")
    found["next: a name"] = await inside.do("expecting(True) or tcp('198.51.100.3', 80)")
    found["next: denied"] = await inside.do("expecting(False) or tcp('198.51.100.4', 80)")
    sh("nft flush ruleset")
    found["tables"] = node.firewall.has_tables()
    ruleset.ensure_rules(LAYOUT)
    node.firewall.refresh()
    found["flushed: nothing"] = await inside.do("expecting(False) or tcp('198.51.100.2', 80)")
    node.firewall.ensure(2, digest)
    found["flushed: allowed"] = await inside.do("expecting(True) or tcp('198.51.100.2', 80)")
    found["flushed: denied"] = await inside.do("expecting(False) or tcp('198.51.100.4', 80)")
    return found


async def scan(node: Node, inside: Child) -> Any:
    """What nmap finds of the node, of the neighbour and of a server of which one port is allowed."""
    node.set_policy(2, {"default": "Deny", "allow": [{"cidr": "198.51.100.2/32", "ports": [{"port": 443}]}]})
    return await inside.do(f"scan(['198.51.100.2', '{NETWORK[1]}', '{NETWORK[3]}', '198.51.100.1', '192.168.7.2'], '22,53,80,443,853,8080')")


async def main() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    firewall.MIN_ADMISSION_SECONDS = 1
    node = Node()
    threading.Thread(target=egress_dns.serve, args=("127.0.0.1", 5300), daemon=True).start()
    resolver = server.Resolver(
        LAYOUT.gateways, nameservers=("127.0.0.1:5300",), ranges=RANGES, find_guest=node.find_guest,
        admit=node.admit,
    )  # fmt: skip
    names = asyncio.create_task(resolver.run())
    listener = await asyncio.start_server(lambda _, writer: writer.close(), ["0.0.0.0", "::"], 8080)  # the node's own port
    outside = await node.add_outside()
    node.set_policy(2, {})
    node.set_policy(3, {})
    inside, neighbour = await node.add_sandbox(2), await node.add_sandbox(3)
    await neighbour.do("serve()")
    wanted = set(sys.argv[1:])
    found: dict[str, Any] = {}
    for flow in egress_flows.FLOWS:
        if not wanted or flow.id in wanted:
            found[flow.id] = await try_flow(node, inside, outside, flow)
    report = {"flows": found, "scan": await scan(node, inside), "established": await try_established(node, inside)}
    report["restart"] = await try_restart(node, inside)
    print(json.dumps(report), flush=True)
    listener.close()
    names.cancel()
    for child in node.children:
        child.kill()
    os._exit(0)  # the namespace goes with us, and all that is in it


if __name__ == "__main__":
    asyncio.run(main())
