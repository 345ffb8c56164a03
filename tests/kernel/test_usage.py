"""`stats` against the kernel's own files: what the agent answers for a sandbox that has used memory, processes and its link."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys

import pytest

from tests.harness import standalone
from tests.harness.agents import python_environment

MIB = 1 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("usage")
    with standalone.running_busybox(str(directory), tag="ku", flags=("--shells=0",)) as agent:
        yield agent


def test_the_answer_is_what_the_files_say(node):
    """Memory, limit and cache, processes, and the link seen from inside; only what moves by itself may differ a little."""
    script = "dd if=/dev/zero of=/root/f bs=1M count=8; dd if=/dev/zero of=/dev/shm/f bs=1M count=20; echo done; sleep 1000 & sleep 1000"
    node.run("box", "sh", "-c", script, resources={"limits": {"memory": "100Mi"}})
    try:
        while b"done" not in b"".join(piece.data for piece in node.client.logs("box")):
            pass
        rows = node.client.exec("box", ["cat", "/proc/net/route"]).stdout.decode().splitlines()[1:]
        gateway = ipaddress.ip_address(int.from_bytes(bytes.fromhex(rows[0].split()[2]), "little"))
        # A request to open a connection is longer than its refusal, so that the two directions differ.
        node.client.exec("box", ["sh", "-c", f"for i in $(seq 60); do nc -w 1 {gateway} 9 & done; wait"])
        found = node.client.inspect("box")["node"]
        memory = next(path for path in found["cgroups"] if "/memory/" in path or os.path.exists(f"{path}/memory.max"))
        is_v2 = os.path.exists(f"{memory}/memory.max")
        # The kernel gives back what the clients above used whenever it likes: what was said lies between what the files said before and after.
        processes = next(path for path in found["cgroups"] if "/pids/" in path or is_v2)
        before, most = _memory(memory, is_v2=is_v2), int(_read(f"{processes}/pids.current"))
        used = node.client.usage("box")
        after, least = _memory(memory, is_v2=is_v2), int(_read(f"{processes}/pids.current"))  # nothing is started meanwhile
        assert used["memory"]["limitBytes"] == 100 * MIB
        for said, *read in zip((used["memory"]["usageBytes"], used["memory"]["cacheBytes"]), before, after, strict=True):
            assert min(read) - MIB <= said <= max(read) + MIB
        assert 20 * MIB <= used["memory"]["cacheBytes"] < 40 * MIB  # /dev/shm counts as cache
        assert 2 <= least <= used["pids"]["current"] <= most
        inside = node.client.exec("box", ["cat", "/proc/net/dev"]).stdout.decode()
        row = next(line.split() for line in inside.splitlines() if "eth0:" in line)
        network = used["network"]
        assert network["sentBytes"] > 1_000 + network["receivedBytes"]
        assert network["sentPackets"] >= 60
        assert (network["receivedBytes"], network["sentBytes"]) == (pytest.approx(int(row[1]), abs=400), pytest.approx(int(row[9]), abs=400))
        assert (used["io"] is None, used["pressure"] is None) == (not is_v2, not os.path.exists(f"{memory}/cpu.pressure"))
        # Looked at every half minute: once the file is whole, what is said is it and the names around it.
        standalone.until(lambda: ((node.client.usage("box")["disk"] or {}).get("usedBytes", 0)) >= 8 * MIB)
        assert node.client.usage("box")["disk"]["usedBytes"] < 9 * MIB
        environment = {**python_environment(), "SKERRY_SOCKET": node.socket_path}
        command = [sys.executable, "-m", "skerry", "stats", "--no-stream", "box"]
        header, line = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        assert line[header.index("MEMORY") :].split(" / ")[1].startswith("100.0 MiB")
        assert line[header.index("DROPS") :].split()[0] == "0"
        shown = json.loads(subprocess.run([*command, "-o", "json"], env=environment, capture_output=True, text=True, check=True).stdout)
        assert shown["items"][0]["network"]["sentPackets"] >= 60
    finally:
        node.remove("box")


def _memory(group, *, is_v2):
    """Bytes in use and bytes of cache, as the files of a memory control group say."""
    counted = dict(line.split() for line in _read(f"{group}/memory.stat").splitlines())
    return int(_read(f"{group}/{'memory.current' if is_v2 else 'memory.usage_in_bytes'}")), int(counted["file" if is_v2 else "total_cache"])


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read()
