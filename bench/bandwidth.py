"""iperf3 through a sandbox's link: what a bandwidth lets through, each way, TCP and UDP, beside a plain veth pair and bridge without a limit.

`SKERRY_BENCH_MBITS=1,10` measures these rates only (0 is no limit), `SKERRY_BENCH_SECONDS` is how long each takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator

from bench.row import Row
from tests.harness import images, standalone, talk

_NEAR, _FAR, _PLAIN = "10.250.77.1", "10.250.77.2", "10.250.78"
_MBITS = tuple(int(each) for each in os.environ.get("SKERRY_BENCH_MBITS", "1,10,100,1000,0").split(","))
_SECONDS = int(os.environ.get("SKERRY_BENCH_SECONDS", "5"))
_BLOCK_BYTES, _LARGE_BLOCK_BYTES = 1448, 16_000
"""Of UDP: what a frame carries for TCP; and from 1,000 Mbit/s on, where one core is too slow for so many calls of the sender, eleven frames."""


def measure(directory: str) -> Iterable[Row]:
    """Mbit/s that programs see, at the receiving end."""
    with standalone.running(directory, tag="bw", flags=("--shells=0",)) as agent, talk.outside("bwo", f"{_NEAR}/24", f"{_FAR}/24") as far:
        agent.client.import_image(images.busybox_layout(os.path.join(directory, "layout")))
        with _server(far):
            for mbits in _MBITS:
                yield from _limited(agent, mbits) if mbits else _unlimited(agent)


def _limited(agent: standalone.Standalone, mbits: int) -> Iterable[Row]:
    network = {"bandwidth": {"ingress": f"{mbits}M", "egress": f"{mbits}M"}, "egress": {"allow": [{"cidr": f"{_FAR}/32"}]}}
    with agent.sandbox("limited", "sleep", "1000", network=network):
        pid = agent.inspect("limited")["pid"]
        for way, reverse in (("out of it", ()), ("into it", ("-R",))):
            for protocol in ("TCP", "UDP"):
                udp = (
                    ("-u", "-b", f"{mbits * 1.2:.1f}M", "-l", str(_BLOCK_BYTES if mbits < 1000 else _LARGE_BLOCK_BYTES)) if protocol == "UDP" else ()
                )
                yield Row("skerry", f"{protocol} {way} at {mbits} Mbit/s", "Mbit/s", [_iperf(pid, *reverse, *udp)])


def _unlimited(agent: standalone.Standalone) -> Iterable[Row]:
    """Turn about, so that what else the machine does meets both."""
    ours: list[float] = []
    plain: list[float] = []
    with agent.sandbox("free", "sleep", "1000", network={"egress": {"allow": [{"cidr": f"{_FAR}/32"}]}}), _plain_bridge() as other:
        pid = agent.inspect("free")["pid"]
        for _ in range(5):
            ours.append(_iperf(pid))
            plain.append(_iperf(other))
    yield Row("skerry", "TCP out of it without a limit", "Mbit/s", ours)
    yield Row("plain veth", "TCP out of it without a limit", "Mbit/s", plain)


@contextlib.contextmanager
def _server(pid: int) -> Iterator[None]:
    process = subprocess.Popen([*talk.enter(pid), "iperf3", "-s", "-4"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _plain_bridge() -> Iterator[int]:
    """The same way without us: a namespace, a veth pair, a bridge, and the node's routing to the same host outside."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        inner = [*talk.enter(process.pid), "ip"]
        for command in (
            ["ip", "link", "add", "bwplain", "type", "bridge"], ["ip", "address", "add", f"{_PLAIN}.1/24", "dev", "bwplain"],
            ["ip", "link", "add", "bwplain0", "type", "veth", "peer", "name", "eth0", "netns", str(process.pid)],
            ["ip", "link", "set", "bwplain0", "master", "bwplain", "up"], ["ip", "link", "set", "bwplain", "up"],
            [*inner, "address", "add", f"{_PLAIN}.2/24", "dev", "eth0"], [*inner, "link", "set", "eth0", "up"],
            [*inner, "route", "add", "default", "via", f"{_PLAIN}.1"],
        ):  # fmt: skip
            subprocess.run(command, check=True)
        with _route_back():
            yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        subprocess.run(["ip", "link", "delete", "bwplain"], check=False)


@contextlib.contextmanager
def _route_back() -> Iterator[None]:
    """Sandboxes are masqueraded; so is this, or the host outside would have to know a way back."""
    chain = "add chain ip bwplain post { type nat hook postrouting priority 100; }"
    subprocess.run(["nft", f'add table ip bwplain; {chain}; add rule ip bwplain post ip saddr {_PLAIN}.0/24 oifname "bwo" masquerade'], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete table ip bwplain"], check=True)


def _iperf(pid: int, *options: str) -> float:
    """What the receiver got, in Mbit/s."""
    command = [*talk.enter(pid), "iperf3", "-J", "-c", _FAR, "-t", str(_SECONDS), *options]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(done["end"].get("sum_received", done["end"].get("sum"))["bits_per_second"]) / 1e6
