"""Published ports on the real kernel: who reaches them from where, who has them, and what becomes of them when agents and sandboxes end."""

from __future__ import annotations

import secrets
import socket
import subprocess

import pytest

from tests.harness import standalone, talk

SLEEP = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
SECOND = 100 + secrets.randbelow(100)
NEAR, FAR = f"10.252.{SECOND}.1", f"10.252.{SECOND}.2"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ports")
    with standalone.running_busybox(str(directory), tag="kq", flags=("--shells=0",)) as agent:
        yield agent


@pytest.fixture(scope="module")
def beyond(node):
    with talk.outside(f"{'sk' + node.place.bridge.removeprefix('skerry')}o", f"{NEAR}/24", f"{FAR}/24") as pid:
        yield pid


def free_port() -> int:
    """A number that no program has, for both protocols; below those that the kernel gives to clients."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError:
                continue
            return port


def both(port: int, inside: int = 80, **more: object) -> dict[str, object]:
    entries = [{"containerPort": inside, "hostPort": port, "protocol": protocol, **more} for protocol in ("TCP", "UDP")]
    return {"network": {"ports": entries}}


def pid_of(node, name: str) -> int:
    return node.inspect(name)["pid"]


def maps(node) -> str:
    table = f"skerry-{node.place.bridge}-ports"
    return subprocess.run(["nft", "list", "map", "inet", table, "ports4"], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_port_is_reached_from_everywhere_and_the_client_is_known(node, beyond, protocol):
    """From outside and from the node with the client's own address; from the node's loopback, a neighbour and itself by way of the node's."""
    port = free_port()
    with node.sandbox("a", *SLEEP, **both(port)), node.sandbox("b", *SLEEP):
        own, neighbour = pid_of(node, "a"), pid_of(node, "b")
        gateway = node.place.address_range.replace(".0.0/16", ".0.1")
        with talk.server(own, 80, "a"):
            assert talk.ask(beyond, protocol, NEAR, port) == f"a {FAR}"
            assert talk.ask(None, protocol, NEAR, port) == f"a {NEAR}"
            assert talk.ask(None, protocol, "127.0.0.1", port) == f"a {gateway}"
            assert talk.ask(neighbour, protocol, gateway, port) == f"a {gateway}"
            assert talk.ask(neighbour, protocol, NEAR, port) == f"a {gateway}"
            assert talk.ask(own, protocol, NEAR, port) == f"a {gateway}"
            assert talk.ask(neighbour, protocol, str(node.client.get("a").status.address), 80, seconds=0.5) == "nothing"


def test_a_port_of_one_address_is_reached_there_only(node, beyond):
    """127.0.0.1 is the node's alone."""
    port = free_port()
    with node.sandbox("a", *SLEEP, **both(port, hostIP="127.0.0.1")), node.sandbox("b", *SLEEP), talk.server(pid_of(node, "a"), 80, "a"):
        assert talk.ask(None, "TCP", "127.0.0.1", port).startswith("a ")
        assert talk.ask(None, "TCP", NEAR, port, seconds=0.5) == "nothing"
        assert talk.ask(beyond, "TCP", NEAR, port, seconds=0.5) == "nothing"
        assert talk.ask(pid_of(node, "b"), "TCP", NEAR, port, seconds=0.5) == "nothing"


def test_a_port_stays_while_no_agent_runs_and_goes_with_the_sandbox(node, beyond):
    """Killed, the agent is not missed; the next one finds the port held; after deletion nothing leads anywhere."""
    port = free_port()
    with node.sandbox("a", *SLEEP, **both(port)):
        own = pid_of(node, "a")
        with talk.server(own, 80, "a"):
            node.kill()
            try:
                assert talk.ask(beyond, "TCP", NEAR, port) == f"a {FAR}"
                assert talk.ask(beyond, "UDP", NEAR, port) == f"a {FAR}"
            finally:
                node.start()
            node.create("c", "true", **both(port))
            refused = node.wait("c", lambda found: standalone.ready_reason(found) == "HostPortTaken")
            assert "spec.network.ports[0].hostPort" in refused.status.termination.message
            node.remove("c")
            assert talk.ask(beyond, "TCP", NEAR, port) == f"a {FAR}"
            assert str(port) in maps(node)
    assert str(port) not in maps(node)


def test_a_port_follows_a_stop_and_a_start(node):
    """Stopped, the place is free for another; started, it is had again."""
    port = free_port()
    with node.sandbox("a", *SLEEP, **both(port)):
        node.client.stop("a")
        standalone.until(lambda: str(port) not in maps(node))
        node.client.start("a")
        node.wait("a", lambda found: standalone.ready_reason(found) == "Running")
        with talk.server(pid_of(node, "a"), 80, "a"):
            assert talk.ask(None, "TCP", "127.0.0.1", port).startswith("a ")


def test_rules_that_were_flushed_are_put_back_by_the_next_agent(node):
    """Whoever flushes the whole ruleset takes published ports away; an agent that starts publishes again what runs."""
    port = free_port()
    with node.sandbox("a", *SLEEP, **both(port)):
        table = f"skerry-{node.place.bridge}-ports"
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)
        node.kill()
        node.start()
        standalone.until(lambda: str(port) in maps(node))


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_port_of_a_program_of_the_node_is_refused(node, protocol):
    """Nobody takes the node's own services away from it."""
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as own:
        own.bind(("127.0.0.1", 0))
        if protocol == "TCP":
            own.listen()
        port = own.getsockname()[1]
        ports = [{"containerPort": 80, "hostPort": port, "protocol": protocol}]
        with node.sandbox("a", "true", network={"ports": ports}) as found:
            assert standalone.ready_reason(found) == "HostPortTaken"
            assert "a program of this node" in found.status.termination.message
