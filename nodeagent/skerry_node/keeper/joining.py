"""The child of an exec: from a fork of the keeper into a living sandbox, to a program of its image or a task of ours.

Before it joins it cannot be traced, is in the sandbox's control groups, and holds no fd but its own streams, the status socket and the pidfd that it
joins by. Once inside it imports nothing, looks up no name and starts no helper: nothing of the image runs before the final execve. Its pid
namespace is the sandbox's from the fork on, so it cannot outlive the first process, whatever it is doing.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import NoReturn

from skerry_node.keeper import confine, identity, program, tasks, terminals, wire
from skerry_node.kernel import syscalls

STATUS_FD, _TARGET_FD = 3, 4
_JOINED = (
    syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWCGROUP
)
"""One call joins them all, the user namespace first (setns(2)). The pid namespace came with the fork."""


@dataclass(frozen=True, slots=True)
class Way:
    """What the keeper hands to the child: the first process by pidfd, the parents of its control groups, the child's own fds, the filter."""

    target_fd: int
    cgroup_fds: tuple[int, ...]
    io_fds: tuple[int, ...]
    streams: tuple[int, ...]
    """Ends of pipes for standard input (-1: none), output and error; empty with a terminal."""
    status: socket.socket
    seccomp_program: bytes


def main(entry: wire.Entry, way: Way) -> NoReturn:
    """Join the sandbox and become what *entry* says. Never returns; the first failure is told on the status socket."""
    try:
        try:
            _join(entry, way)
            _become(entry, way.seccomp_program)
        except program.StepFailed as failure:
            _report(failure)
        except OSError as error:
            _report(program.StepFailed("", str(error)))
    except BaseException:  # noqa: BLE001, S110 - nothing may unwind into the keeper's own code, whose copy this process is
        pass
    os._exit(127)


def _join(entry: wire.Entry, way: Way) -> None:
    """Everything that must hold before anything of the sandbox can see us; then one step into all of it."""
    confine.set_dumpable(False)
    os.setsid()
    for parent_fd in (*way.cgroup_fds, *way.io_fds):
        try:
            fd = os.open(f"{entry.uid}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent_fd)
        except FileNotFoundError:
            if parent_fd in way.io_fds:
                continue  # a limit that comes now finds this process by its pids group, where it is already
            raise
        os.write(fd, b"0")
        os.close(fd)
    null = _above(os.open("/dev/null", os.O_RDWR))
    streams = [_above(fd) if fd >= 0 else null for fd in way.streams] or [null, null, null]
    status, target = _above(way.status.detach()), _above(way.target_fd)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.dup2(status, STATUS_FD, inheritable=False)
    os.dup2(target, _TARGET_FD, inheritable=False)
    confine.close_fds(_TARGET_FD + 1)
    syscalls.setns(_TARGET_FD, _JOINED)
    os.close(_TARGET_FD)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)
    os.chdir("/")


def _become(entry: wire.Entry, seccomp_program: bytes) -> NoReturn:
    confine.drop_bounding_set(confine.ADDABLE_MASK)
    confine.set_rlimits()
    program.reset_signals()
    who = _resolve_user(entry.user)
    if entry.has_terminal:
        _open_terminal(entry, who)
    elif entry.has_pipes:
        _own_streams(entry, who)
    confine.drop_from_addable(entry.capabilities)
    confine.set_identity(who.uid, who.gid, who.groups, keep=entry.capabilities)
    if not entry.task:
        program.enter_working_directory(entry.working_dir, is_made=False)
    confine.set_no_new_privs()
    confine.install_filter(seccomp_program)
    if not entry.task:
        program.execute(entry.argv, program.make_environment(entry.env, hostname=entry.hostname, home=who.home))
    code = tasks.perform(entry.task, entry.argv, STATUS_FD)
    os._exit(code)


def _above(fd: int) -> int:
    """*fd* under a number that no fixed place needs."""
    while fd <= _TARGET_FD:
        fd = os.dup(fd)
    return fd


def _resolve_user(user: str) -> identity.Identity:
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return identity.resolve(user, identity.read_accounts(root))
    except identity.UnknownUser as error:
        raise program.StepFailed("user", str(error), reason="InvalidUser") from error
    finally:
        os.close(root)


def _open_terminal(entry: wire.Entry, who: identity.Identity) -> None:
    """A terminal of the sandbox's own; its master goes to the keeper."""
    master, terminal = terminals.open_pair(who, columns=entry.columns, rows=entry.rows)
    status = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=STATUS_FD)
    socket.send_fds(status, [b"T"], [master])
    status.detach()
    os.close(master)
    terminals.become(terminal)


def _own_streams(entry: wire.Entry, who: identity.Identity) -> None:
    """/dev/stdout and its like can be opened anew by whoever the program runs as; without input, that is the sandbox's own /dev/null."""
    if not entry.has_input:
        null = os.open("/dev/null", os.O_RDWR | os.O_NOCTTY)
        os.dup2(null, 0)
        os.close(null)
    for number in range(0 if entry.has_input else 1, 3):
        os.fchown(number, who.uid, who.gid)


def _report(failure: program.StepFailed) -> None:
    field = failure.field.removeprefix("spec.")
    message = {"field": field, "problem": failure.problem, "reason": failure.reason}
    os.write(STATUS_FD, b"E" + json.dumps(message).encode()[:4000])
