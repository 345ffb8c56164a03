"""Processes that joined sandboxes: started, held, ended. Their bytes never pass through here: the agent gets the other ends of their pipes.

The keeper keeps duplicates of those ends, so that the death of an agent breaks nobody's pipe and the next agent can go on where it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from skerry_node.keeper import door, events, joining, spawn, wire
from skerry_node.kernel import syscalls

MAX_LIVING = 1_024
"""Of one node: each holds four fds here."""
MAX_ENDED = 64
"""Ends that nobody has fetched; the oldest is forgotten first."""
_PIPE_BYTES = 1 << 20


@dataclass(slots=True)
class Exec:
    """One of them. `fds` are our duplicates of what the agent holds: input, output, error, or the master of the terminal (-1: closed)."""

    entry: wire.Entry
    pid: int
    pidfd: int
    fds: list[int]
    status: socket.socket | None
    listeners: list[door.Reply] = field(default_factory=list)
    problem: bytearray = field(default_factory=bytearray)
    is_started: bool = False
    wait_status: int | None = None


class Execs:
    """All of them. *find* gives the pidfd of a sandbox's first process, None while there is none that runs."""

    def __init__(self, room: spawn.Room, waiting: events.Events, *, find: Callable[[str], int | None]) -> None:
        self._room = room
        self._events = waiting
        self._find = find
        self._all: dict[str, Exec] = {}
        self._ended: list[str] = []
        self._own_pidns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.handlers: dict[str, Callable[[wire.Message, door.Reply], None]] = {
            "exec": self._on_exec,
            "exec_attach": self._on_attach,
            "exec_list": self._on_list,
            "exec_signal": self._on_signal,
            "exec_close_input": self._on_close_input,
            "exec_forget": self._on_forget,
        }

    @property
    def count(self) -> int:
        """How many are here, those among them whose end nobody has fetched."""
        return len(self._all)

    def _on_exec(self, message: wire.Message, reply: door.Reply) -> None:
        entry = wire.parse_entry(message["entry"])
        if entry.name in self._all:
            reply(_refusal("Exists", f"an exec {entry.name!r} exists already; take another id"))
            return
        if len(self._all) - len(self._ended) >= MAX_LIVING:
            reply(_refusal("TooMany", f"{MAX_LIVING} execs run on this node; wait until some have ended"))
            return
        target = self._find(entry.uid)
        if target is None:
            reply(_refusal("NotRunning", "the sandbox does not run"))
            return
        made = self._start(entry, target)
        made.listeners.append(reply)
        self._all[entry.name] = made
        assert made.status is not None
        self._events.watch(made.status.fileno(), lambda _: self._on_status(made))

    def _start(self, entry: wire.Entry, target: int) -> Exec:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        kept, given = _make_pipes(entry) if entry.has_pipes else ([], [])
        try:
            pid = self._fork_into(target)
            if pid == 0:
                way = joining.Way(
                    target_fd=target, cgroup_fds=self._room.cgroup_fds, io_fds=self._room.io_fds, streams=tuple(given), status=theirs,
                    seccomp_program=self._room.seccomp_program,
                )  # fmt: skip
                joining.main(entry, way)
            ours.setblocking(False)  # noqa: FBT003 - the socket module's own signature
            return Exec(entry=entry, pid=pid, pidfd=os.pidfd_open(pid), fds=kept, status=ours)
        except BaseException:
            ours.close()
            _close(kept)
            raise
        finally:
            theirs.close()
            _close(given)

    def _fork_into(self, target: int) -> int:
        """A child that is in the pid namespace of *target* from its first instruction; ours for new children is put back at once."""
        syscalls.setns(target, syscalls.CLONE_NEWPID)
        pid = -1
        try:
            pid = syscalls.clone(0)
        finally:
            if pid != 0:
                syscalls.setns(self._own_pidns, syscalls.CLONE_NEWPID)
        return pid

    def _on_status(self, made: Exec) -> None:
        """The child sends a terminal or connection, or tells of a failure; that it closes without a word says that it has become the program."""
        assert made.status is not None
        try:
            part, fds, _, _ = socket.recv_fds(made.status, 4096, 1)
        except BlockingIOError:  # meant for an fd of that number that was closed a moment ago
            return
        if part:
            if fds:
                os.set_blocking(fds[0], False)
                os.set_inheritable(fds[0], False)  # noqa: FBT003 - likewise
                made.fds = fds
                part = part[1:]
            made.problem += part
            return
        self._events.unwatch(made.status.fileno())
        made.status.close()
        made.status = None
        if made.problem or not made.fds:
            self._abandon(made)
            return
        made.is_started = True
        self._events.watch(made.pidfd, lambda _: self._on_end(made))
        for reply in made.listeners:
            reply(self._describe(made), [made.pidfd, *(fd for fd in made.fds if fd >= 0)])

    def _abandon(self, made: Exec) -> None:
        os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
        refusal = _refusal("StartFailed", "it ended before it had joined; the sandbox may be ending, or be out of memory")
        with contextlib.suppress(ValueError):  # a word that a kill cut short
            if made.problem[:1] == b"E":
                refusal = {"error": {"errno": 0, **json.loads(bytes(made.problem[1:]))}}
        for reply in made.listeners:
            reply(refusal)
        self._drop(made)

    def _on_attach(self, message: wire.Message, reply: door.Reply) -> None:
        made = self._all.get(message["name"])
        if made is None or not made.is_started:
            reply(_refusal("NotFound", f"no exec {message['name']!r}; it has ended, or never was"))
            return
        made.listeners.append(reply)
        reply(self._describe(made), [made.pidfd, *(fd for fd in made.fds if fd >= 0)])
        if made.wait_status is not None:
            reply({"ended": made.wait_status})

    def _on_list(self, _: wire.Message, reply: door.Reply) -> None:
        reply({"ok": {"execs": [self._describe(made)["ok"] for made in self._all.values() if made.is_started]}})

    def _on_signal(self, message: wire.Message, reply: door.Reply) -> None:
        """To the process, or to its whole process group; nothing has reaped it yet, so its pid is its own."""
        made = self._all.get(message["name"])
        is_alive = made is not None and made.wait_status is None
        if made is not None and is_alive:
            with contextlib.suppress(ProcessLookupError):
                if message["group"]:
                    os.killpg(made.pid, message["signal"])
                else:
                    signal.pidfd_send_signal(made.pidfd, message["signal"])
        reply({"ok": {"known": is_alive}})

    def _on_close_input(self, message: wire.Message, reply: door.Reply) -> None:
        """The agent has closed its end of the input; with ours gone, too, the program reads an end of file."""
        made = self._all.get(message["name"])
        if made is not None and made.entry.has_input and made.entry.has_pipes and made.fds[0] >= 0:
            os.close(made.fds[0])
            made.fds[0] = -1
        reply({"ok": {}})

    def _on_forget(self, message: wire.Message, reply: door.Reply) -> None:
        made = self._all.get(message["name"])
        if made is not None and made.wait_status is not None:
            self._drop(made)
        reply({"ok": {}})

    def _on_end(self, made: Exec) -> None:
        result = os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        self._events.unwatch(made.pidfd)
        made.wait_status = result.si_status if result.si_code in {os.CLD_KILLED, os.CLD_DUMPED} else result.si_status << 8
        for reply in made.listeners:
            reply({"ended": made.wait_status})
        self._ended.append(made.entry.name)
        if len(self._ended) > MAX_ENDED:
            self._drop(self._all[self._ended[0]])

    def _describe(self, made: Exec) -> wire.Message:
        entry = made.entry
        return {
            "ok": {
                "uid": entry.uid, "name": entry.name, "pid": made.pid, "argv": entry.argv, "task": entry.task, "terminal": entry.has_terminal,
                "input": entry.has_input and made.fds[0] >= 0, "ended": made.wait_status,
            }
        }  # fmt: skip

    def _drop(self, made: Exec) -> None:
        self._all.pop(made.entry.name, None)
        with contextlib.suppress(ValueError):
            self._ended.remove(made.entry.name)
        _close([made.pidfd, *made.fds])


def _make_pipes(entry: wire.Entry) -> tuple[list[int], list[int]]:
    """Our ends and the child's of input (-1 when there is none), output and error. The child's belong to the sandbox's root."""
    kept, given = [], []
    for number in range(3):
        if number == 0 and not entry.has_input:
            kept.append(-1)
            given.append(-1)
            continue
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours, theirs = (writing, reading) if number == 0 else (reading, writing)
        kept.append(ours)
        given.append(theirs)
        os.set_blocking(ours, False)
        os.fchown(theirs, entry.id_base, entry.id_base)
        if entry.task:
            with contextlib.suppress(PermissionError):  # beyond pipe-user-pages-soft it stays as it is
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return kept, given


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _refusal(reason: str, problem: str) -> wire.Message:
    return {"error": {"errno": errno.ESRCH if reason == "NotRunning" else 0, "problem": problem, "reason": reason}}
