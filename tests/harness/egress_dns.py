"""A nameserver for tests, on a port of loopback: one zone, with what hostile and ordinary names answer."""

from __future__ import annotations

import socket
import struct
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

_A: dict[str, tuple[str, ...]] = {
    "a.example.com.": ("198.51.100.3",),
    "b.example.com.": ("198.51.100.4",),
    "x.wild.example.com.": ("198.51.100.4",),
    "x.y.wild.example.com.": ("198.51.100.4",),
    "wild.example.com.": ("198.51.100.4",),
    "evilwild.example.com.": ("198.51.100.4",),
    "secret.b.example.com.": ("198.51.100.4",),
    "rebind.example.com.": ("192.168.7.2",),
    "rebindnode.example.com.": ("10.88.0.1", "127.0.0.1"),
    "metadata.example.com.": ("169.254.169.254",),
    "mixed.example.com.": ("10.88.0.3", "198.51.100.3"),
    "short.example.com.": ("198.51.100.4",),
}
_AAAA = {"a.example.com.": "2001:db8:77::3", "rebind.example.com.": "fd00:7::2"}
_CNAME = {
    "alias.example.com.": "rebind.example.com.",
    "chain.example.com.": "second.example.com.",
    "second.example.com.": "x.wild.example.com.",
    "loop.example.com.": "pool.example.com.",
    "pool.example.com.": "loop.example.com.",
}


def serve(host: str, port: int) -> None:
    """Answer for ever, by UDP and TCP."""
    threading.Thread(target=_serve_tcp, args=(host, port), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((host, port))
        while True:
            wire, source = door.recvfrom(4096)
            door.sendto(_answer(wire, limit=512), source)


def _serve_tcp(host: str, port: int) -> None:
    with socket.create_server((host, port)) as door:
        while True:
            connection, _ = door.accept()
            with connection:
                size = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))[0]
                wire = _answer(connection.recv(size, socket.MSG_WAITALL), limit=65535)
                connection.sendall(struct.pack(">H", len(wire)) + wire)


def _answer(wire: bytes, *, limit: int) -> bytes:
    """One link of a chain at a time: the rest is the asker's work."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    name, kind = query.question[0].name.to_text().lower(), query.question[0].rdtype
    seconds = 1 if name.startswith("short.") else 300
    if name in _CNAME:
        response.answer.append(dns.rrset.from_text(name, seconds, "IN", "CNAME", _CNAME[name]))
    elif kind == dns.rdatatype.A and name in _A:
        response.answer.append(dns.rrset.from_text(name, seconds, "IN", "A", *_A[name]))
    elif kind == dns.rdatatype.AAAA and name in _AAAA:
        response.answer.append(dns.rrset.from_text(name, seconds, "IN", "AAAA", _AAAA[name]))
    elif kind == dns.rdatatype.TXT and name == "long.example.com.":
        response.answer.append(dns.rrset.from_text(name, seconds, "IN", "TXT", *(f'"{"x" * 100}{number}"' for number in range(40))))
    elif name not in _A:
        response.set_rcode(dns.rcode.NXDOMAIN)
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()
