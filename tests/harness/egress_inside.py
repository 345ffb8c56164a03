"""What a sandbox, a neighbour and the world outside do in egress_node.py: a namespace of its own, and a loop that evaluates lines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import select
import socket
import struct
import subprocess
import sys
import threading
import time

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from skerry_node.kernel import syscalls
from tests.harness import machine

GATEWAY, GATEWAY_MAC = "10.88.0.1", bytes.fromhex("02580a580001")
OPEN, SHUT = "open", "shut"
_state: dict[str, object] = {"seconds": 1.0}
_seen: set[bytes] = set()
_held: list[socket.socket] = []
_addresses: list[str] = []


def expecting(is_open: bool) -> None:  # noqa: FBT001
    """Wait long for what must come, and short for what must not."""
    _state["seconds"] = 10.0 * machine.PATIENCE if is_open else 1.0


def _seconds() -> float:
    return float(str(_state["seconds"]))


def configure(addresses: list[str], gateway: str, gateway6: str) -> None:
    _run("ip link set lo up")
    with open("/proc/sys/net/ipv6/conf/eth0/accept_ra", "w", encoding="ascii") as file:
        file.write("0")
    _addresses.extend(address.partition("/")[0] for address in addresses)
    for address in addresses:
        _run(f"ip address add {address} dev eth0" + (" nodad" if ":" in address else ""))
    _run("ip link set eth0 up")
    _run(f"ip route add default via {gateway}")
    _run(f"ip -6 route add default via {gateway6}")


def serve() -> None:
    """Every address: TCP that echoes, UDP that echoes and remembers."""
    for port in (22, 53, 80, 443, 853, 8080):
        door = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        threading.Thread(target=_serve_tcp, args=(door,), daemon=True).start()
    for port in (53, 80, 9999):
        for host in _addresses:  # one each, so that an answer comes from where the question went
            plain = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            plain.bind((host, port))
            threading.Thread(target=_serve_udp, args=(plain,), daemon=True).start()


def _serve_tcp(door: socket.socket) -> None:
    while True:
        threading.Thread(target=_echo, args=(door.accept()[0],), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(100):
            connection.sendall(data)


def _serve_udp(door: socket.socket) -> None:
    while True:
        data, source = door.recvfrom(65_535)
        _seen.add(data[:16])
        door.sendto(data[:16], source)


def saw(token: str) -> bool:
    return bytes.fromhex(token) in _seen


def tcp(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=_seconds()):
            return OPEN
    except OSError:
        return SHUT


def udp(address: str, port: int, size: int = 16) -> str:
    """Ask until there is an answer: a datagram may be lost."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    deadline, token = time.monotonic() + _seconds(), secrets.token_bytes(16)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        probe.settimeout(0.5)
        while time.monotonic() < deadline:
            try:
                probe.send(token.ljust(size, b"x"))
                if probe.recv(100) == token:
                    return OPEN
            except TimeoutError:
                continue
            except OSError:
                return SHUT
    return SHUT


def ping(address: str) -> str:
    done = subprocess.run(
        ["ping", "-6" if ":" in address else "-4", "-c", "1", "-w", str(int(_seconds())), "-W", str(int(_seconds())), address],
        capture_output=True, check=False,
    )  # fmt: skip
    return OPEN if done.returncode == 0 else SHUT


def lookup(name: str, kind: str = "A", *, server: str = GATEWAY, tcp: bool | None = False) -> str:
    query = dns.message.make_query(name, kind)
    if tcp is None:
        response, used_tcp = dns.query.udp_with_fallback(query, server, timeout=20)
        assert used_tcp
    else:
        response = (dns.query.tcp if tcp else dns.query.udp)(query, server, timeout=20)
    if response.rcode() != dns.rcode.NOERROR:
        return dns.rcode.to_text(response.rcode())
    final = [rrset for rrset in response.answer if rrset.rdtype == dns.rdatatype.from_text(kind)]
    if kind == "TXT":
        return f"{len(final[0])} records"
    return ",".join(sorted(rdata.address for rrset in final for rdata in rrset))


def named(name: str, port: int, kind: str = "A") -> str:
    address = lookup(name, kind)
    return tcp(address, port) if re.fullmatch(r"[0-9a-f:.]+", address) else address


def until_shut(name: str, port: int) -> str:
    address = lookup(name)
    _state["seconds"] = 10.0
    if tcp(address, port) != OPEN:
        return "never open"
    _state["seconds"], deadline = 1.0, time.monotonic() + 30
    while tcp(address, port) == OPEN and time.monotonic() < deadline:
        time.sleep(0.1)
    return tcp(address, port)


def hold(address: str, port: int) -> str:
    _held.append(socket.create_connection((address, port), timeout=_seconds()))
    return push()


def push() -> str:
    """Something through the last connection that was held, and back."""
    token = secrets.token_bytes(8)
    _held[-1].settimeout(None)
    _held[-1].send(token)
    deadline, data = time.monotonic() + _seconds(), b""
    while time.monotonic() < deadline and token not in data:
        if select.select([_held[-1]], [], [], 0.1)[0]:
            data += _held[-1].recv(100)
    return OPEN if token in data else SHUT


def spoof(address: str, port: int, *, source: str = "10.88.0.2", mac: str = "02580a580002") -> str:
    """A datagram made by hand, and after it one that must arrive, so that the first has had its chance."""
    token = secrets.token_bytes(16)
    datagram = struct.pack(">HHHH", 4321, port, 8 + len(token), 0) + token
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(address))
    head = head[:10] + struct.pack(">H", _checksum(head)) + head[12:]
    _send_frame(GATEWAY_MAC + bytes.fromhex(mac) + b"\x08\x00" + head + datagram)
    _state["seconds"] = 10.0
    assert udp(address, port) == OPEN
    return token.hex()


def advertise() -> str:
    """A router advertisement to all (RFC 4861)."""
    source, target = socket.inet_pton(socket.AF_INET6, "fe80::58:aff:fe58:2"), socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    pseudo = source + target + struct.pack(">II", len(body), 58)
    body = body[:2] + struct.pack(">H", _checksum(pseudo + body)) + body[4:]
    head = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + source + target
    _send_frame(bytes.fromhex("333300000001") + bytes.fromhex("02580a580002") + b"\x86\xdd" + head + body)
    return "sent"


def scan(addresses: list[str], ports: str) -> list[str]:
    """`address port` of everything that nmap calls open, by TCP."""
    command = ["nmap", "-n", "-Pn", "-sT", "-T5", "--max-retries", "1", "--host-timeout", "30s", "-p", ports, "-oG", "-", *addresses]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for line in text.splitlines():
        if "Ports:" in line:
            found += [f"{line.split()[1]} {port}" for port in re.findall(r"(\d+)/open/", line)]
    return found


def _send_frame(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(frame)


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def main() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    print(json.dumps("up"), file=answers)
    for line in sys.stdin:
        try:
            value = eval(line)
        except Exception as error:  # noqa: BLE001
            value = f"{type(error).__name__}: {error}"
        print(json.dumps(value), file=answers)


if __name__ == "__main__":
    main()
