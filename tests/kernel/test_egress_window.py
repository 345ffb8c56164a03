"""No window at all: a program that floods from its first instruction, over creates, deletions and kills of the agent, never gets a packet out."""

from __future__ import annotations

import ipaddress
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from skerry_node.keeper import link
from tests.harness import claims, images, standalone
from tests.harness.agents import python_environment

ROUNDS, KILLS = int(os.environ.get("SKERRY_FLOODS", "6")), int(os.environ.get("SKERRY_FLOOD_KILLS", "2"))
_LISTEN = """
import socket, sys
from skerry_node.kernel import syscalls
syscalls.unshare(syscalls.CLONE_NEWNET)
print("up", flush=True)
sys.stdin.readline()
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("eth0", 0))
print("listening", flush=True)
sys.stdin.readline()
wire.setblocking(False)
seen = set()
try:
    while True:
        frame = wire.recv(2048)
        if frame[23] == 6:
            seen.add(int.from_bytes(frame[36:38], "big"))
except BlockingIOError:
    pass
print(*sorted(seen), flush=True)
"""


class Outside:
    """The world: a namespace behind a link of the node, where every IPv4 frame is looked at."""

    def __init__(self, name: str, node: str, world: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=python_environment()
        )
        assert self._answer() == "up"
        fd = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)
        with link.Rtnl() as rtnl:
            rtnl.create_veth(name, peer_netns_fd=fd, master_index=0, mac="02:58:00:00:00:07", isolated=False)
        os.close(fd)
        subprocess.run(["ip", "address", "add", f"{node}/30", "dev", name], check=True)
        inside = ["nsenter", "-t", str(self._process.pid), "-n", "ip"]
        subprocess.run([*inside, "address", "add", f"{world}/30", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        self._tell()
        assert self._answer() == "listening"

    def read(self) -> set[int]:
        """The ports of every TCP segment that arrived."""
        self._tell()
        return {int(port) for port in self._answer().split()}

    def close(self) -> None:
        self._process.communicate()

    def _tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


@pytest.fixture
def agent(tmp_path: pathlib.Path) -> Iterator[standalone.Standalone]:
    with standalone.running(str(tmp_path), tag="fl") as found:
        found.client.import_image(images.busybox_layout(str(tmp_path / "busybox")))
        yield found


@pytest.mark.thorough
def test_a_flood_from_the_first_instruction_never_leaves(agent: standalone.Standalone):
    """Neither a Deny nor what is closed by default has a moment in which it does not hold; what is allowed is seen, so the eye is open."""
    second = claims.claim_range()
    node, world = f"10.{second}.250.1", f"10.{second}.250.2"
    outside = Outside(f"sk{claims.claim_mark('fl')}", node, world)
    try:
        allowed = {"egress": {"default": "Deny", "allow": [{"cidr": f"{world}/32", "ports": [{"port": 7}]}]}}
        for number in range(ROUNDS):
            policy = ({"egress": {"default": "Deny"}}, {})[number % 2]
            flood = f"i=0; while [ $i -lt 20 ]; do nc -w 1 {world} {1000 + number} < /dev/null & i=$((i+1)); done; wait; echo done"
            agent.create(f"flood{number}", "sh", "-c", flood, network=policy)
            if number % max(1, ROUNDS // KILLS) == 1:
                agent.kill()
                agent.start()
            agent.wait_end(f"flood{number}")
            assert agent.output(f"flood{number}") == "done\n"
            agent.remove(f"flood{number}")
        with agent.sandbox("greeter", "sh", "-c", f"nc -w 5 {world} 7 < /dev/null", network=allowed):
            agent.wait_end("greeter")
        seen = outside.read()
    finally:
        outside.close()
    assert seen == {7}


def test_a_patch_is_in_force_while_the_program_runs(agent: standalone.Standalone):
    """The manifest changes, and the kernel's rules with it: no restart, and nothing stays of it when the sandbox is gone."""
    with agent.sandbox("patched", "sh", "-c", "cat /etc/resolv.conf; sleep 1000"):
        table = ["nft", "list", "map", "inet", f"skerry-{agent.place.bridge}", "egress4"]
        before = agent.client.get("patched")
        address = before.status.address
        assert f"{address} : goto open" in subprocess.run(table, capture_output=True, text=True, check=True).stdout
        path = next(os.path.join(agent.manifests, name) for name in os.listdir(agent.manifests))
        with open(path, encoding="utf-8") as file:
            manifest = yaml.safe_load(file)
        manifest["spec"]["network"] = {"egress": {"default": "Deny"}}
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            yaml.safe_dump(manifest, file)
        os.rename(f"{path}.new", path)
        standalone.until(lambda: f"{address} : goto egress-" in subprocess.run(table, capture_output=True, text=True, check=True).stdout)
        assert agent.client.get("patched").status.started_at == before.status.started_at
        gateway = agent.output("patched").split()[1]
        assert gateway == str(ipaddress.ip_network(agent.place.address_range)[1])
    assert address not in subprocess.run(table, capture_output=True, text=True, check=True).stdout
