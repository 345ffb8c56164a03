"""Netlink by hand (netlink(7)): messages built with struct on one long-lived socket, several in one system call, each answered.

Standard library only, because the keeper and a sandbox's first process use it. A general library costs 0.7 s and 27 MB to import, and some
milliseconds a link. Errors are OSError with the kernel's number, what was asked, and the kernel's own explanation where it gives one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
"""NLM_F_*, linux/netlink.h."""
NESTED = 0x8000
"""NLA_F_NESTED: a flag in an attribute's type."""
_HEADER, _ATTRIBUTE, _NUMBER, _SIGNED = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=I"), struct.Struct("=i")
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_ACK_HAS_EXPLANATION, _EXPLANATION = 0x200, 1
"""NLM_F_ACK_TLVS, NLMSGERR_ATTR_MSG."""
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, flags beyond REQUEST and ACK, body with attributes, and what it asks for, for people."""

    kind: int
    flags: int
    body: bytes
    what: str


class Netlink:
    """One socket of the network namespace in which it was opened. Not for several threads at once."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def ask(self, *messages: Message) -> None:
        """Send *messages* in one go and read an answer for each. Raises OSError for the first that was refused.

        The kernel works them off in order and goes on after a refusal.
        """
        waiting: dict[int, str] = {}
        batch = bytearray()
        for message in messages:
            sequence = self._next()
            waiting[sequence] = message.what
            batch += pack(message, sequence, flags=ACK)
        self._socket.send(batch)
        failure: OSError | None = None
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if kind != _ERROR or sequence not in waiting:
                    continue  # an answer to an earlier batch that was interrupted
                what = waiting.pop(sequence)
                number = error_number(body)
                if number and failure is None:
                    failure = OSError(number, f"{what}: {explain(number, flags, body)}")
        if failure is not None:
            raise failure

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of every object that a dump request names. Raises OSError."""
        sequence = self._next()
        self._socket.send(pack(message, sequence, flags=DUMP))
        found: list[bytes] = []
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != sequence:
                    continue
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    number = error_number(body)
                    raise OSError(number, f"{message.what}: {explain(number, flags, body)}")
                found.append(body)

    def _next(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, sequence number and body of each message in one datagram."""
        data, offset = self._socket.recv(_RECEIVE_BYTES), 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                raise OSError(errno.EBADMSG, "netlink: a message shorter than its header")
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def attribute(kind: int, body: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(body)
    return _ATTRIBUTE.pack(length, kind) + body + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute of text, with its NUL."""
    return attribute(kind, value.encode("ascii") + b"\x00")


def number(kind: int, value: int) -> bytes:
    """An attribute of one u32 in the machine's byte order."""
    return attribute(kind, _NUMBER.pack(value))


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type from *offset* on; of a repeated one the last."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def find_attribute(data: bytes, *path: int) -> tuple[int, int] | None:
    """Where the body of the attribute begins and ends that *path* leads to, one type for each level of nesting; None when there is none."""
    start, end = 0, len(data)
    for wanted in path:
        while start + _ATTRIBUTE.size <= end:
            length, kind = _ATTRIBUTE.unpack_from(data, start)
            if kind & _TYPE_MASK == wanted and length >= _ATTRIBUTE.size:
                start, end = start + _ATTRIBUTE.size, start + length
                break
            start += max((length + 3) & ~3, _ATTRIBUTE.size)
        else:
            return None
    return start, end


def list_attributes(data: bytes) -> Iterator[bytes]:
    """The bodies of a list whose attributes are all of one type."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, _ = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def pack(message: Message, sequence: int, *, flags: int) -> bytes:
    """The bytes of *message* with its header."""
    size = _HEADER.size + len(message.body)
    return _HEADER.pack(size, message.kind, message.flags | flags | REQUEST, sequence, 0) + message.body + bytes(-size % 4)


def error_number(body: bytes) -> int:
    """The errno of an answer; 0 when it went well."""
    return -int(_SIGNED.unpack_from(body)[0])


def explain(number: int, flags: int, body: bytes) -> str:
    """The kernel's own words where it has any, behind the name of the error number."""
    explanation = b""
    if flags & _ACK_HAS_EXPLANATION:  # the request's header alone lies before it: NETLINK_CAP_ACK
        explanation = parse_attributes(body, _SIGNED.size + _HEADER.size).get(_EXPLANATION, b"").rstrip(b"\x00")
    said = f" ({explanation.decode('utf-8', 'replace')})" if explanation else ""
    return os.strerror(number) + said
