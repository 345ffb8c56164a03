"""The attic: a process that holds file descriptors for the keeper, so that a death of keeper and agent at once loses nothing (ADR 12).

Run as a script, by path, with a listening unix socket (SOCK_SEQPACKET) as standard input; standard library only. It decides nothing and reads
nothing but requests of one packet each, a letter and a key: `K` keeps the descriptors that come along under the key, in place of older ones;
`D` drops a key; `T` asks for everything, each key in a packet with its descriptors, then END; `S` ends it.
It ends by itself when it holds nothing and nobody is connected.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
from collections.abc import Sequence

MAX_KEY_BYTES = 512
MAX_FDS = 4
"""A pidfd, two pipes, and where input goes, if there is any."""
END = b"\n"


def main() -> None:
    """Serve until told to end, or of no use."""
    os.setsid()
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with socket.socket(fileno=0) as listener:
        serve(listener)


def serve(listener: socket.socket) -> None:
    """Answer packets on every connection; a connection that breaks is forgotten, what it left stays."""
    attic = _Attic()
    attic.poll.register(listener, select.POLLIN)
    try:
        while not attic.is_over:
            for fd, _ in attic.poll.poll():
                if fd == listener.fileno():
                    attic.add(listener.accept()[0])
                elif fd in attic.connections:
                    attic.read(attic.connections[fd])
    finally:
        attic.close()


def send(connection: socket.socket, packet: bytes, fds: Sequence[int], flags: int) -> None:
    """One packet with descriptors. `socket.send_fds` of Python 3.11 takes flags and forgets them; so does recv_fds."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    connection.sendmsg([packet], rights, flags)


def receive(connection: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One packet with its descriptors, which no program inherits; empty when the other side has hung up."""
    packet, rights, _, _ = connection.recvmsg(1 + MAX_KEY_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), flags | socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += struct.unpack(f"{len(data) // 4}i", data)
    return packet, fds


class _Attic:
    """What is held, by key, and who is connected, by fd."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.connections: dict[int, socket.socket] = {}
        self.is_over = False
        self._held: dict[bytes, list[int]] = {}

    def add(self, connection: socket.socket) -> None:
        self.connections[connection.fileno()] = connection
        self.poll.register(connection, select.POLLIN)

    def read(self, connection: socket.socket) -> None:
        """Obey every packet that has arrived."""
        while connection.fileno() >= 0:
            try:
                request, fds = receive(connection, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                request, fds = b"", []
            if request[:1] == b"T":
                self._hand_out(connection)
            elif request in {b"", b"S"}:
                self._hang_up(connection, ends=request == b"S")
            else:
                self._keep(request[:1], request[1:], fds)
                continue
            _close_all(fds)

    def close(self) -> None:
        """Let go of everything."""
        for connection in self.connections.values():
            connection.close()
        for fds in self._held.values():
            _close_all(fds)

    def _keep(self, letter: bytes, key: bytes, fds: list[int]) -> None:
        if letter in {b"K", b"D"}:
            _close_all(self._held.pop(key, []))
        if letter == b"K" and key and fds:
            self._held[key] = fds
        else:
            _close_all(fds)

    def _hand_out(self, connection: socket.socket) -> None:
        """Everything, the last packets of others included: who asks may have followed a dead one closely."""
        for other in list(self.connections.values()):
            if other is not connection:
                self.read(other)
        with contextlib.suppress(OSError):  # it went away while it was answered
            for key, fds in self._held.items():
                send(connection, key, fds, socket.MSG_NOSIGNAL)
            connection.send(END)

    def _hang_up(self, connection: socket.socket, *, ends: bool) -> None:
        self.poll.unregister(connection)
        del self.connections[connection.fileno()]
        connection.close()
        self.is_over = self.is_over or ends or not (self._held or self.connections)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


if __name__ == "__main__":
    main()
