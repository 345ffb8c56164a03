"""Bandwidth on the real kernel: what stands before a link and behind it, that all bytes go through it, and what becomes of it."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys

import pytest
import yaml

from tests.harness import images, standalone, talk

SLEEP = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
SECOND = 100 + secrets.randbelow(100)
NEAR, FAR = f"10.251.{SECOND}.1", f"10.251.{SECOND}.2"
SENT_BYTES = 1_000_000
_CLASS = re.compile(r"class htb 1:([0-9a-f]+) .*? rate (\d+)([KMG]?bit) .*?\n Sent (\d+) bytes")
_UNITS = {"bit": 1, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
SINK = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as listener:
    print("up", flush=True)
    connection, _ = listener.accept()
    total = 0
    while data := connection.recv(65536):
        total += len(data)
    print(total, flush=True)
"""
SOURCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=60) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bandwidth")
    with standalone.running_busybox(str(directory), tag="kb", flags=("--shells=0",)) as agent:
        yield agent


@pytest.fixture(scope="module")
def beyond(node):
    with talk.outside(f"{ifb_of(node)}o", f"{NEAR}/24", f"{FAR}/24") as pid:
        yield pid


def ifb_of(node) -> str:
    return f"ifbsk{node.place.bridge.removeprefix('skerry')[:6]}"


def link_of(node, name: str) -> str:
    """The host's end of its link, by the index that its own end tells."""
    pid = node.inspect(name)["pid"]
    shown = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", "link", "show", "eth0"], check=True, capture_output=True, text=True)
    return socket.if_indextoname(json.loads(shown.stdout)[0]["link_index"])


def rates(node, name: str, link: str | None = None) -> tuple[int | None, int | None]:
    """Bytes per second into it and out of it, as the kernel has them."""
    link = link or link_of(node, name)
    qdiscs = tc("qdisc", link)
    inside = next((each["options"]["rate"] for each in qdiscs if each["kind"] == "tbf"), None)
    has_filter = any(each["kind"] == "ingress" for each in qdiscs)
    found = [each["rate"] for each in classes(node) if each["minor"] == slot_of(link)]
    return inside, found[0] if found and has_filter else None


def held(ingress: float | None, egress: float | None):
    """What `rates` says of megabits per second; tc rounds what it shows of classes."""
    return (None if ingress is None else wire(ingress), None if egress is None else pytest.approx(wire(egress), rel=0.002))


def slot_of(link: str) -> int:
    return int(link.rpartition("-")[2])


def classes(node) -> list[dict[str, int]]:
    if subprocess.run(["ip", "link", "show", ifb_of(node)], check=False, capture_output=True).returncode:
        return []
    shown = subprocess.run(["tc", "-s", "class", "show", "dev", ifb_of(node)], check=True, capture_output=True, text=True).stdout
    return [{"minor": int(minor, 16), "rate": int(rate) * _UNITS[unit] // 8, "bytes": int(sent)} for minor, rate, unit, sent in _CLASS.findall(shown)]


def tc(what: str, link: str):
    return json.loads(subprocess.run(["tc", "-j", "-s", what, "show", "dev", link], check=True, capture_output=True, text=True).stdout or "[]")


def send(source: int | None, sink: int, address: str) -> int:
    """Send from the network namespace of one pid to that of another; how many bytes arrived."""
    enter = [[*talk.enter(pid), sys.executable, "-c"] for pid in (source, sink)]
    receiver = subprocess.Popen([*enter[1], SINK, address], stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "up\n"
        subprocess.run([*enter[0], SOURCE, address, str(SENT_BYTES)], check=True)
        return int(receiver.stdout.readline())
    finally:
        receiver.kill()
        receiver.communicate()


def limited(ingress: str | None = None, egress: str | None = None):
    given = {"ingress": ingress, "egress": egress}
    return {"bandwidth": {key: value for key, value in given.items() if value}, "egress": {"allow": [{"cidr": f"{FAR}/32"}]}}


def wire(megabits: float) -> int:
    """Bytes per second of full frames."""
    return int(megabits * 1_000_000 * 1514 // 1460 // 8)


def patch(node, name: str, **changed: str | None):
    """Change the manifest's file as an editor does; None removes a limit."""
    (path,) = (os.path.join(node.manifests, each) for each in os.listdir(node.manifests) if f"{name}." in each)
    with open(path, encoding="utf-8") as file:
        manifest = yaml.safe_load(file)
    network = manifest["spec"]["network"]
    merged = {**network.get("bandwidth", {}), **changed}
    network["bandwidth"] = {key: value for key, value in merged.items() if value is not None}
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    os.rename(path + ".new", path)


def test_every_byte_goes_through_the_limits(node, beyond):
    """Both ways, to and from a host outside; a neighbour without a limit has nothing before its link."""
    with node.sandbox("a", *SLEEP, network=limited("80M", "40M")), node.sandbox("b", *SLEEP):
        assert rates(node, "a") == held(80, 40)
        assert rates(node, "b") == (None, None)
        own, link = node.inspect("a")["pid"], link_of(node, "a")
        assert send(own, beyond, FAR) == SENT_BYTES
        assert next(each["bytes"] for each in classes(node) if each["minor"] == slot_of(link)) >= SENT_BYTES
        before = tc("qdisc", link)[0]["bytes"]
        assert send(None, own, str(node.client.get("a").status.address)) == SENT_BYTES
        assert tc("qdisc", link)[0]["bytes"] - before >= SENT_BYTES


def test_a_program_is_limited_from_its_first_packet(node, beyond):
    """What it asks before it does anything else has gone through its class."""
    request = f"dd if=/dev/zero bs=1000 count=20 2>/dev/null | nc {FAR} 7000; while :; do sleep 1 & wait $!; done"
    receiver = subprocess.Popen([*talk.enter(beyond), sys.executable, "-c", SINK, FAR], stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "up\n"
        with node.sandbox("a", "sh", "-c", request, network=limited(egress="1M")):
            assert receiver.stdout.readline() == "20000\n"
            link = link_of(node, "a")
            counted = next(each["bytes"] for each in classes(node) if each["minor"] == slot_of(link))
            assert counted >= 20_000
    finally:
        receiver.kill()
        receiver.communicate()


def test_limits_change_live_and_stay_while_no_agent_runs(node):
    """Raised, dropped, set anew; killed, the agent is not missed, and the next one knows what is in force; deletion leaves no class."""
    with node.sandbox("a", *SLEEP, network=limited("10M")):
        assert rates(node, "a") == held(10, None)
        patch(node, "a", ingress="20M", egress="1M")
        standalone.until(lambda: rates(node, "a") == held(20, 1))
        patch(node, "a", ingress=None)
        standalone.until(lambda: rates(node, "a") == held(None, 1))
        link = link_of(node, "a")
        node.kill()
        try:
            assert rates(node, "a", link) == held(None, 1)
        finally:
            node.start()
        node.wait("a", lambda found: standalone.ready_reason(found) == "Running")
        patch(node, "a", ingress="5M", egress="2M")
        standalone.until(lambda: rates(node, "a") == held(5, 2))
        slot = slot_of(link)
        assert slot in {each["minor"] for each in classes(node)}
    standalone.until(lambda: slot not in {each["minor"] for each in classes(node)})


def test_a_limit_that_somebody_removed_comes_back(node):
    """The next look at the kernel sees that it is gone."""
    with node.sandbox("a", *SLEEP, network=limited("10M", "10M")):
        link = link_of(node, "a")
        subprocess.run(["tc", "qdisc", "del", "dev", link, "root"], check=True)
        subprocess.run(["tc", "qdisc", "del", "dev", link, "ingress"], check=True)
        node.kill()
        node.start()
        standalone.until(lambda: rates(node, "a", link) == held(10, 10))


def test_a_restart_is_limited_as_its_manifest_says_then(node):
    """Stopped, changed and started again: a new link, with the new limits."""
    with node.sandbox("a", *SLEEP, network=limited("10M", "10M")):
        node.client.stop("a")
        node.wait("a", lambda found: standalone.ready_reason(found) == "Stopped")
        patch(node, "a", ingress="30M", egress=None)
        node.client.start("a")
        node.wait("a", lambda found: standalone.ready_reason(found) == "Running")
        assert rates(node, "a") == held(30, None)


def test_a_shell_that_waited_is_limited_before_its_program_is_there(ledger, tmp_path):
    """Its link was there before anybody knew the limit."""
    with standalone.running(str(tmp_path), tag="kb", flags=("--shells=1",)) as warm:
        warm.client.import_image(images.busybox_layout(str(tmp_path / "layout")))
        standalone.until(lambda: warm.client.info()["details"]["shellsReady"] == 1)
        with warm.sandbox("a", *SLEEP, network=limited("10M", "20M")):
            assert warm.client.get("a").status.launch_type == "Warm"
            assert rates(warm, "a") == held(10, 20)
    assert not os.path.exists(f"/sys/class/net/{ifb_of(warm)}")
