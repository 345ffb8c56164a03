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

MAX_KEY_BYTES = 512
MAX_FDS = 3
"""A pidfd and two pipes."""
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
    held: dict[bytes, list[int]] = {}
    connections: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _address = listener.accept()
                connections[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
                continue
            request, fds = _receive(connections[fd])
            if request in {b"", b"S"}:
                poll.unregister(fd)
                connections.pop(fd).close()
            if request == b"S" or not (held or connections):
                _let_go(held, connections)
                return
            _obey(connections.get(fd), request, fds, held)


def _let_go(held: dict[bytes, list[int]], connections: dict[int, socket.socket]) -> None:
    for connection in connections.values():
        connection.close()
    for fds in held.values():
        for fd in fds:
            os.close(fd)


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    try:
        request, fds, _, _ = socket.recv_fds(connection, 1 + MAX_KEY_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", []
    return request, fds


def _obey(connection: socket.socket | None, request: bytes, fds: list[int], held: dict[bytes, list[int]]) -> None:
    letter, key = request[:1], request[1:]
    if letter in {b"K", b"D"}:
        for fd in held.pop(key, ()):
            os.close(fd)
    if letter == b"K" and key and fds:
        held[key] = fds
        return
    for fd in fds:
        os.close(fd)
    if letter == b"T" and connection is not None:
        with contextlib.suppress(OSError):  # it went away while it was answered
            for each, kept in held.items():
                socket.send_fds(connection, [each], kept)
            connection.send(END)


if __name__ == "__main__":
    main()
