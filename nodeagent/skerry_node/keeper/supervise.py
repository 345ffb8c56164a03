"""The keeper's one loop: requests from the agent, output of sandboxes, ends of processes. Single-threaded; nothing in it blocks for long.

What must outlive the keeper is on disk before it matters: `starting` is written before the program can run, `exit` before anybody is told.
Both lie in the sandbox's runtime directory, which the agent makes and removes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Callable

from skerry_node.keeper import children, consoles, door, events, execs, holding, logs, records, spawn, wire
from skerry_node.kernel import syscalls

VERSION = 1
_REAPED_BY_INIT_SECONDS = 2.0
"""How long an adopted process may stay a zombie until init reaps it and its exit status can be read."""
_DYING_POLL_SECONDS = 0.005


class Keeper:
    """Parent of every sandbox of this node. `run` returns when told to stop; sandboxes live on."""

    def __init__(self, room: spawn.Room, listener: socket.socket, attic: holding.Attic, *, runtime: str = "") -> None:
        self._room = room
        self._listener = listener
        self._runtime = runtime
        self._attic = attic
        self._events = events.Events()
        self._door = door.Door(listener, self._events, self._answer)
        self._children: dict[str, children.Child] = {}
        self._shells: dict[int, spawn.Parked] = {}
        self._dying: list[children.Child] = []
        self._stop = False
        self._execs = execs.Execs(room, self._events, find=self._find_running)
        self._consoles = consoles.Consoles(find=self._find_console, has_closed=lambda uid: self._children[uid].keep(self._attic))

    def run(self) -> None:
        """Serve until a `stop` request."""
        while not self._stop:
            self._events.wait(_DYING_POLL_SECONDS if self._dying else -1, first=self._door.fds)  # requests go before output
            self._finish_dying()

    def adopt(self, kept: dict[tuple[str, int], holding.Kept]) -> None:
        """Take over what an earlier keeper left: the living by pid, start time and boot id, the dead by what the attic *kept* of them."""
        for uid in os.listdir(self._room.runtime_fd):
            with contextlib.suppress(OSError):
                child = children.adopt(self._room, self._attic, uid, kept)
                if child is not None:
                    self._children[uid] = child
                    self._watch_child(child)
                    self._watch_console(child)
        for (uid, attempt), each in kept.items():
            if uid not in self._children or self._children[uid].attempt != attempt:
                self._attic.drop(uid, attempt)
            each.close()

    # Requests

    def _answer(self, message: wire.Message, reply: door.Reply) -> None:
        handlers: dict[str, Callable[[wire.Message, door.Reply], None]] = {
            **self._execs.handlers,
            **self._consoles.handlers,
            "state": self._on_state,
            "prepare": self._on_prepare,
            "launch": self._on_launch,
            "signal": self._on_signal,
            "discard": self._on_discard,
            "forget_layer": self._on_forget_layer,
            "renew": self._on_renew,
            "stop": self._on_stop,
        }
        try:
            handlers[message["do"]](message, reply)
        except OSError as error:
            reply({"error": {"errno": error.errno, "problem": str(error)}})

    def _on_state(self, _: wire.Message, reply: door.Reply) -> None:
        found = {child.uid: {"pid": child.pid, "attempt": child.attempt} for child in self._children.values()}
        shells = [[slot, parked.dress and parked.dress.layers] for slot, parked in self._shells.items()]
        reply({"ok": {"version": VERSION, "runtime": self._runtime, "pid": os.getpid(), "children": found, "shells": shells}})

    def _on_prepare(self, message: wire.Message, reply: door.Reply) -> None:
        shell = wire.parse_shell(message["shell"])
        if shell.slot not in self._shells:
            parked = spawn.prepare(self._room, shell, waits=True, dress=wire.parse_dress(message["dress"]))
            self._shells[shell.slot] = parked
            self._events.watch(parked.pidfd, lambda _: self._drop_shell(shell.slot))
        reply({"ok": {}})

    def _on_discard(self, message: wire.Message, reply: door.Reply) -> None:
        self._drop_shell(message["slot"])
        reply({"ok": {}})

    def _on_launch(self, message: wire.Message, reply: door.Reply) -> None:
        order = wire.parse_launch(message["launch"])
        child = self._children.get(order.uid)
        if child is not None:
            reply({"ok": {"pid": child.pid, "attempt": child.attempt, "warm": False, "seconds": 0.0}})
            return
        began = time.monotonic()
        parked = self._shells.pop(order.shell.slot, None)
        warm = parked is not None
        if parked is None:
            parked = spawn.prepare(self._room, order.shell, waits=False, host_network=order.host_network)
        else:
            self._events.unwatch(parked.pidfd)
        ticks = parked.start_ticks
        records.write_starting(self._room.runtime_fd, order.uid, pid=parked.pid, start_ticks=ticks, attempt=order.attempt)
        starting = spawn.launch(self._room, parked, order, message["launch"], volume_fds=message["fds"])
        child = children.Child(
            uid=order.uid, attempt=order.attempt, pid=starting.pid, pidfd=starting.pidfd, streams=starting.streams,
            starting=starting, reply=reply, began=began, console=starting.console,
        )  # fmt: skip
        self._children[order.uid] = child
        if child.console is not None:
            child.keep(self._attic)  # before the program can run, whose input it is
        self._events.watch(starting.status_fd, lambda _: self._on_status(child, starting, warm=warm))
        self._watch_child(child)

    def _on_status(self, child: children.Child, starting: spawn.Starting, *, warm: bool) -> None:
        part = self._take_terminal(child, starting) if starting.launch.has_terminal else os.read(starting.status_fd, 4096)
        if part is None:
            return
        if part:
            starting.problem += part
            return
        self._events.unwatch(starting.status_fd)
        os.close(starting.status_fd)
        child.starting = None
        reply, child.reply = child.reply, None
        if starting.problem:
            self._abandon(child)
            if reply:
                reply({"error": {"errno": 0, **json.loads(starting.problem)}})
            return
        records.mark_started(self._room.runtime_fd, child.uid)
        if reply:
            seconds = time.monotonic() - child.began
            reply({"ok": {"pid": child.pid, "attempt": child.attempt, "warm": warm, "seconds": seconds}})
        child.keep(self._attic)

    def _take_terminal(self, child: children.Child, starting: spawn.Starting) -> bytes | None:
        """Bytes of a problem, none at the end; None when a terminal came, which is held now, or nothing did."""
        try:
            part, console = consoles.take_master(starting.status_fd, self._room.runtime_fd, child.uid)
        except BlockingIOError:
            return None
        if console is None:
            return part
        child.console = console
        child.keep(self._attic)
        self._watch_console(child)
        with contextlib.suppress(BrokenPipeError):
            os.write(starting.status_fd, consoles.ACCEPTED)
        return part or None

    def _on_signal(self, message: wire.Message, reply: door.Reply) -> None:
        child = self._children.get(message["uid"])
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, message["signal"])
        reply({"ok": {"known": child is not None}})

    def _on_forget_layer(self, message: wire.Message, reply: door.Reply) -> None:
        """Shells that are dressed in that layer go first: they hold it."""
        layer = message["layer"]
        dropped = [slot for slot, parked in self._shells.items() if parked.dress is not None and layer in parked.dress.layers]
        for slot in dropped:
            self._drop_shell(slot)
        self._room.layers.forget(layer)
        reply({"ok": {"dropped": dropped}})

    def _on_stop(self, _: wire.Message, reply: door.Reply) -> None:
        self._stop = True
        self._attic.stop()
        reply({"ok": {}})

    def _on_renew(self, message: wire.Message, reply: door.Reply) -> None:
        """Execute the next keeper, which adopts our children: they stay ours, since we stay the same process (ADR 17).

        Not while something would be lost: a start that is not answered yet, an exec whose end only we can tell.
        """
        if self._execs.count or any(child.starting for child in self._children.values()) or not message["fds"]:
            reply({"ok": {"renewed": False}})
            return
        for slot in list(self._shells):
            self._drop_shell(slot)
        *argv, settings = message["argv"]
        listener = os.dup(self._listener.fileno())
        os.set_inheritable(listener, True)  # noqa: FBT003 - the os module's own signature
        reply({"ok": {"renewed": True}})
        syscalls.setns(message["fds"][0], syscalls.CLONE_NEWNS)
        os.execv(argv[0], [*argv, json.dumps({**json.loads(settings), "listener_fd": listener})])  # noqa: S606 - our own runtime

    def _find_running(self, uid: str) -> int | None:
        child = self._children.get(uid)
        return child.pidfd if child is not None and child.runs else None

    def _find_console(self, uid: str) -> consoles.Console | None:
        child = self._children.get(uid)
        return child.console if child is not None and child.runs else None

    # Processes and their output

    def _watch_child(self, child: children.Child) -> None:
        self._events.watch(child.pidfd, lambda _: self._on_death(child))
        for stream in child.streams:
            self._events.watch(stream.pipe_fd, functools.partial(self._on_output, stream))

    def _watch_console(self, child: children.Child) -> None:
        console = child.console
        if console is None or not console.is_terminal:
            return

        def show(mask: int) -> None:
            if not console.pump(child.streams[0]) and mask & events.HANG_UP:
                self._events.unwatch(console.fd)

        self._events.watch(console.fd, show)

    def _on_output(self, stream: logs.Stream, mask: int) -> None:
        if stream.pump() is None or (mask & events.HANG_UP and not mask & events.READABLE):
            self._events.unwatch(stream.pipe_fd)

    def _on_death(self, child: children.Child) -> None:
        self._events.unwatch(child.pidfd)
        child.dead_since = time.monotonic()
        self._dying.append(child)

    def _finish_dying(self) -> None:
        if self._dying:
            self._dying = [child for child in self._dying if not self._is_finished(child)]

    def _is_finished(self, child: children.Child) -> bool:
        """Record the end of *child* once its status can be read and its start has been answered."""
        if child.starting is not None:
            return False
        known, status = children.wait_status(child)
        if not known and time.monotonic() - (child.dead_since or 0.0) < _REAPED_BY_INIT_SECONDS:
            return False
        if self._children.get(child.uid) is child:
            child.drain()
            records.write_exit(self._room.runtime_fd, child.uid, attempt=child.attempt, status=status)
            self._forget(child)
            self._door.broadcast({"event": "exited", "uid": child.uid})
        return True

    def _abandon(self, child: children.Child) -> None:
        """Forget a child that never became the program: it is as if it had not been started."""
        self._events.unwatch(child.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        self._dying = [other for other in self._dying if other is not child]
        records.remove_process(self._room.runtime_fd, child.uid)
        self._forget(child)

    def _forget(self, child: children.Child) -> None:
        self._children.pop(child.uid, None)
        if child.console is not None:
            self._events.unwatch(child.console.fd)
            child.console.close()
        for stream in child.streams:
            self._events.unwatch(stream.pipe_fd)
            stream.close()
        os.close(child.pidfd)
        self._attic.drop(child.uid, child.attempt)

    def _drop_shell(self, slot: int) -> None:
        parked = self._shells.pop(slot, None)
        if parked is None:
            return
        self._events.unwatch(parked.pidfd)
        pidfd, parked.pidfd = parked.pidfd, -1
        parked.close()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
