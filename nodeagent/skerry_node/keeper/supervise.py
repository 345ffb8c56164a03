"""The keeper's one loop: requests from the agent, output of sandboxes, ends of processes. Single-threaded; nothing in it blocks for long.

What must outlive the keeper is on disk before it matters: `process` is written before the program can run, `exit` before anybody is told.
Both lie in the sandbox's runtime directory, which the agent makes and removes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from skerry_node.keeper import logs, records, spawn, wire
from skerry_node.kernel import syscalls

VERSION = 1
_PEERCRED = struct.Struct("3i")
_REAPED_BY_INIT_SECONDS = 2.0
"""How long an adopted process may stay a zombie until init reaps it and its exit status can be read."""
_HANG_UP = select.EPOLLHUP | select.EPOLLERR


@dataclass(slots=True)
class Child:
    """A sandbox's first process, ours or adopted from an earlier keeper."""

    uid: str
    attempt: int
    pid: int
    pidfd: int
    streams: tuple[logs.Stream, ...]
    starting: spawn.Starting | None = None
    reply: Callable[[wire.Message], None] | None = None
    dead_since: float | None = None
    began: float = 0.0


@dataclass(slots=True)
class Client:
    """A connection of an agent."""

    socket: socket.socket
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)


class Keeper:
    """Parent of every sandbox of this node. `run` returns when told to stop; sandboxes live on."""

    def __init__(self, room: spawn.Room, listener: socket.socket) -> None:
        self._room = room
        self._listener = listener
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._clients: dict[int, Client] = {}
        self._children: dict[str, Child] = {}
        self._shells: dict[int, spawn.Parked] = {}
        self._dying: list[Child] = []
        self._stop = False
        self._watch(listener.fileno(), select.EPOLLIN, self._accept)

    def run(self) -> None:
        """Serve until a `stop` request."""
        while not self._stop:
            timeout = 0.005 if self._dying else -1
            events = self._epoll.poll(timeout)
            events.sort(key=lambda event: event[0] not in self._clients)  # requests go before output
            for fd, mask in events:
                handler = self._watched.get(fd)
                if handler is not None:
                    handler(mask)
            self._finish_dying()

    def adopt(self) -> None:
        """Take over what an earlier keeper left: living processes by pid, start time and boot id; the output of the dead."""
        for uid in os.listdir(self._room.runtime_fd):
            with contextlib.suppress(OSError):
                self._adopt(uid)

    # Requests

    def _answer(self, client: Client, message: wire.Message) -> None:
        def reply(result: wire.Message) -> None:
            if self._clients.get(client.socket.fileno()) is client:
                self._send(client, {"id": message["id"], **result})

        handlers: dict[str, Callable[[wire.Message, Callable[[wire.Message], None]], None]] = {
            "state": self._on_state,
            "prepare": self._on_prepare,
            "launch": self._on_launch,
            "signal": self._on_signal,
            "discard": self._on_discard,
            "forget_layer": self._on_forget_layer,
            "stop": self._on_stop,
        }
        try:
            handlers[message["do"]](message, reply)
        except OSError as error:
            reply({"error": {"errno": error.errno, "problem": str(error)}})

    def _on_state(self, _: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        children = {child.uid: {"pid": child.pid, "attempt": child.attempt} for child in self._children.values()}
        reply({"ok": {"version": VERSION, "pid": os.getpid(), "children": children, "shells": sorted(self._shells)}})

    def _on_prepare(self, message: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        shell = wire.parse_shell(message["shell"])
        if shell.slot not in self._shells:
            parked = spawn.prepare(self._room, shell)
            self._shells[shell.slot] = parked
            self._watch(parked.pidfd, select.EPOLLIN, lambda _: self._drop_shell(shell.slot))
        reply({"ok": {}})

    def _on_discard(self, message: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        self._drop_shell(message["slot"])
        reply({"ok": {}})

    def _on_launch(self, message: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        order = wire.parse_launch(message["launch"])
        child = self._children.get(order.uid)
        if child is not None:
            reply({"ok": {"pid": child.pid, "attempt": child.attempt, "warm": False, "seconds": 0.0}})
            return
        began = time.monotonic()
        parked = self._shells.pop(order.shell.slot, None)
        warm = parked is not None
        if parked is None:
            parked = spawn.prepare(self._room, order.shell, host_network=order.host_network)
        else:
            self._unwatch(parked.pidfd)
        records.write_process(self._room.runtime_fd, order.uid, pid=parked.pid, attempt=order.attempt, started=False)
        starting = spawn.launch(self._room, parked, order)
        child = Child(
            uid=order.uid, attempt=order.attempt, pid=starting.pid, pidfd=starting.pidfd, streams=starting.streams,
            starting=starting, reply=reply, began=began,
        )  # fmt: skip
        self._children[order.uid] = child
        self._watch(starting.status_fd, select.EPOLLIN, lambda _: self._on_status(child, starting, warm=warm))
        self._watch_child(child)

    def _on_status(self, child: Child, starting: spawn.Starting, *, warm: bool) -> None:
        part = os.read(starting.status_fd, 4096)
        if part:
            starting.problem += part
            return
        self._unwatch(starting.status_fd)
        os.close(starting.status_fd)
        child.starting = None
        reply, child.reply = child.reply, None
        if starting.problem:
            self._abandon(child)
            if reply:
                reply({"error": {"errno": 0, **json.loads(starting.problem)}})
            return
        records.write_process(self._room.runtime_fd, child.uid, pid=child.pid, attempt=child.attempt, started=True)
        if reply:
            seconds = time.monotonic() - child.began
            reply({"ok": {"pid": child.pid, "attempt": child.attempt, "warm": warm, "seconds": seconds}})

    def _on_signal(self, message: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        child = self._children.get(message["uid"])
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, message["signal"])
        reply({"ok": {"known": child is not None}})

    def _on_forget_layer(self, message: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        self._room.layers.forget(message["layer"])
        reply({"ok": {}})

    def _on_stop(self, _: wire.Message, reply: Callable[[wire.Message], None]) -> None:
        self._stop = True
        reply({"ok": {}})

    # Processes and their output

    def _watch_child(self, child: Child) -> None:
        self._watch(child.pidfd, select.EPOLLIN, lambda _: self._on_death(child))
        for stream in child.streams:
            self._watch(stream.pipe_fd, select.EPOLLIN, functools.partial(self._on_output, stream))

    def _on_output(self, stream: logs.Stream, mask: int) -> None:
        if stream.pump() is None or (mask & _HANG_UP and not mask & select.EPOLLIN):
            self._unwatch(stream.pipe_fd)

    def _on_death(self, child: Child) -> None:
        self._unwatch(child.pidfd)
        child.dead_since = time.monotonic()
        self._dying.append(child)

    def _finish_dying(self) -> None:
        if self._dying:
            self._dying = [child for child in self._dying if not self._is_finished(child)]

    def _is_finished(self, child: Child) -> bool:
        """Record the end of *child* once its status can be read and its start has been answered."""
        if child.starting is not None:
            return False
        known, status = _wait_status(child)
        if not known and time.monotonic() - (child.dead_since or 0.0) < _REAPED_BY_INIT_SECONDS:
            return False
        if self._children.get(child.uid) is child:
            self._drain(child)
            records.write_exit(self._room.runtime_fd, child.uid, attempt=child.attempt, status=status)
            self._forget(child)
            for client in list(self._clients.values()):
                self._send(client, {"event": "exited", "uid": child.uid})
        return True

    def _drain(self, child: Child) -> None:
        """Move what the dead still have in their pipes; every process of the sandbox has died with its first."""
        for stream in child.streams:
            while stream.pump():
                pass

    def _abandon(self, child: Child) -> None:
        """Forget a child that never became the program: it is as if it had not been started."""
        self._unwatch(child.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        self._dying = [other for other in self._dying if other is not child]
        records.remove_process(self._room.runtime_fd, child.uid)
        self._forget(child)

    def _forget(self, child: Child) -> None:
        self._children.pop(child.uid, None)
        for stream in child.streams:
            self._unwatch(stream.pipe_fd)
            stream.close()
        os.close(child.pidfd)

    def _drop_shell(self, slot: int) -> None:
        parked = self._shells.pop(slot, None)
        if parked is None:
            return
        self._unwatch(parked.pidfd)
        pidfd, parked.pidfd = parked.pidfd, -1
        parked.close()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)

    def _adopt(self, uid: str) -> None:
        record = records.read_process(self._room.runtime_fd, uid)
        if record is None or records.has_exit(self._room.runtime_fd, uid, attempt=record.attempt):
            return
        directory = os.open(uid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._room.runtime_fd)
        try:
            streams = logs.open_streams(directory, self._room.logs_fd, uid, self._room.bounds)
        finally:
            os.close(directory)
        pidfd = records.open_process(record)
        if pidfd is None:
            for stream in streams:
                while stream.pump():
                    pass
                stream.close()
            return
        child = Child(uid=uid, attempt=record.attempt, pid=record.pid, pidfd=pidfd, streams=streams)
        if not record.started and records.is_own_program(record.pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # its orders died with the keeper: it was never started
        elif not record.started:
            records.write_process(self._room.runtime_fd, uid, pid=record.pid, attempt=record.attempt, started=True)
        self._children[uid] = child
        self._watch_child(child)

    # Connections

    def _accept(self, _: int) -> None:
        connection, _address = self._listener.accept()
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        if _PEERCRED.unpack(peer)[1] != os.geteuid():
            connection.close()
            return
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        client = Client(socket=connection)
        self._clients[connection.fileno()] = client
        self._watch(connection.fileno(), select.EPOLLIN, lambda mask: self._on_client(client, mask))

    def _on_client(self, client: Client, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                self._flush(client)
            if mask & (select.EPOLLIN | _HANG_UP):
                part = client.socket.recv(1 << 18)
                if not part:
                    self._hang_up(client)
                    return
                client.incoming += part
                while (message := wire.take(client.incoming)) is not None:
                    self._answer(client, message)
        except BlockingIOError:
            return
        except (OSError, wire.BrokenPeer):
            self._hang_up(client)

    def _send(self, client: Client, message: wire.Message) -> None:
        client.outgoing += wire.encode(message)
        try:
            self._flush(client)
        except OSError:
            self._hang_up(client)

    def _flush(self, client: Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.outgoing:
                del client.outgoing[: client.socket.send(client.outgoing)]
        mask = select.EPOLLIN | (select.EPOLLOUT if client.outgoing else 0)
        self._epoll.modify(client.socket.fileno(), mask)

    def _hang_up(self, client: Client) -> None:
        if self._clients.pop(client.socket.fileno(), None) is not None:
            self._unwatch(client.socket.fileno())
            client.socket.close()

    def _watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self._watched[fd] = handler
        self._epoll.register(fd, mask)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)


def _wait_status(child: Child) -> tuple[bool, int | None]:
    """Whether the end is known, and the wait status: from waitid for our own child.

    For an adopted one from the pidfd once somebody has reaped it (Linux 6.15), or from the zombie until then.
    """
    try:
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        status = syscalls.pidfd_exit_status(child.pidfd)
        if status is None:
            status = records.read_zombie_status(child.pid)
        return status is not None, status
    if result is None:
        return False, None
    killed = result.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
    return True, result.si_status if killed else result.si_status << 8
