"""Programs of ours in other network namespaces: a server that answers with the address of who asked, and a client that tells the answer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

SERVER = """
import socket, sys, threading
port = int(sys.argv[1])
tcp = socket.create_server(("::", port), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", port))
def answer(peer):
    return sys.argv[2].encode() + b" " + peer[0].removeprefix("::ffff:").encode()
def serve_udp():
    while True:
        data, peer = udp.recvfrom(100)
        udp.sendto(answer(peer), peer)
threading.Thread(target=serve_udp, daemon=True).start()
print("up", flush=True)
while True:
    connection, peer = tcp.accept()
    with connection:
        connection.sendall(answer(peer))
"""
CLIENT = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "TCP" else socket.SOCK_DGRAM
with socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, kind) as probe:
    probe.settimeout(float(sys.argv[4]))
    try:
        probe.connect((sys.argv[2], int(sys.argv[3])))
        probe.send(b"?")
        print(probe.recv(100).decode())
    except OSError as error:
        print("nothing")
"""


@contextlib.contextmanager
def server(pid: int, port: int, name: str) -> Iterator[None]:
    """Serve TCP and UDP *port* in the network namespace of *pid*, answering *name* and the address of who asks."""
    command = [*enter(pid), sys.executable, "-c", SERVER, str(port), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(where: int | None, protocol: str, address: str, port: int, *, seconds: float = 5.0) -> str:
    """The answer at *address*, asked from the network namespace of the pid *where* (None: ours); `nothing` when there is none in time."""
    command = [*enter(where), sys.executable, "-c", CLIENT, protocol, address, str(port), str(seconds)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def outside(name: str, near: str, far: str) -> Iterator[int]:
    """A host beyond this one, joined by a link of that *name*: the pid of a process there. Addresses are in CIDR form, ours and its."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        pid = str(process.pid)
        subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid], check=True)
        subprocess.run(["ip", "address", "add", near, "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        for words in (("address", "add", far, "dev", "eth0"), ("link", "set", "eth0", "up")):
            subprocess.run([*enter(process.pid), "ip", *words], check=True)
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def enter(pid: int | None) -> list[str]:
    """The beginning of a command in the network namespace of *pid*; None is ours."""
    return [] if pid is None or pid == os.getpid() else ["nsenter", f"--net=/proc/{pid}/ns/net"]
