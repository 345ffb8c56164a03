"""The child: from a fresh set of namespaces to the user's program. Runs inside every namespace of the sandbox, as its root.

It imports nothing, looks up no name and starts no helper: everything it meets below the new root is hostile. It waits for orders on a socket
and dies when the keeper does. Set-up is a list of steps in order; the first that fails is reported by name on the status pipe.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import NoReturn

from skerry_node.keeper import confine, identity, inner_mounts, link, program, terminals, tree, volumes, wire
from skerry_node.kernel import syscalls

ORDER_FD = STATUS_FD = 3
LINK_IS_THERE = b"L"
"""What follows the order of a shell that has a link, once it is in our network namespace."""
HEAD_BYTES = 16
"""An order opens with its length as decimal text of this many bytes."""
_MAX_FDS = 64
_COLUMNS, _ROWS = 80, 24
"""Of a terminal until somebody attaches and tells."""
_SHELL = wire.Shell(slot=0, id_base=0, link=None)
_SAMPLE = json.dumps(wire.render_launch(wire.Launch(
    uid="", attempt=0, shell=_SHELL, host_network=False, layers=("",), argv=("sample",), env=("A=b",), working_dir="/", user="0:0", hostname="sample",
    hosts="", resolv_conf="", read_only=False, capabilities=0, dressed=False,
)))  # fmt: skip
"""An order to rehearse with."""


def main(orders: socket.socket, seccomp_program: bytes) -> NoReturn:
    """Live as the first process of a sandbox: prepare, wait, become the program. Never returns."""
    try:
        waiting = _settle(orders)
        launch, fds = _receive_launch(orders)
        os.dup2(fds.pop(), STATUS_FD, inheritable=False)  # in the place of the orders, where close_fds leaves it open
        try:
            _become(launch, fds, waiting, seccomp_program)
        except program.StepFailed as failure:
            _report(failure)
        except OSError as error:
            _report(program.StepFailed("", str(error)))
    except BaseException:  # noqa: BLE001, S110 - nothing may unwind into the keeper's own code, whose copy this process is
        pass
    os._exit(127)


@dataclass(slots=True)
class Waiting:
    """What is ready before the launch: our mounts; the root fd of a shell that was dressed, and its accounts once all is in place there."""

    prepared: inner_mounts.Prepared
    root_fd: int | None = None
    accounts: identity.Accounts | None = None


def _settle(orders: socket.socket) -> Waiting:
    """Wait until the keeper has mapped our ids, then become root and prepare all that can be; the link comes in meanwhile."""
    order, fds = _receive(orders)
    shell = wire.parse_shell(order)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)
    confine.set_dumpable(False)
    os.setsid()
    confine.drop_bounding_set(confine.ADDABLE_MASK)
    confine.set_rlimits()
    program.reset_signals()
    waiting = Waiting(inner_mounts.prepare(host_network=order["host_network"]))
    if not order["host_network"]:
        if shell.link is not None and _read(orders, len(LINK_IS_THERE)) != LINK_IS_THERE:
            os._exit(127)
        link.configure_inside(shell.link)
    if order["dressed"]:
        _dress(waiting, fds[0])
    if order["waits"]:
        _rehearse()
    return waiting


def _dress(waiting: Waiting, root_fd: int) -> None:
    """Put everything into the root that was given beforehand. A root that does not take it is left to the launch, which reports why."""
    waiting.root_fd = root_fd
    _move_root(root_fd)
    try:
        inner_mounts.attach(root_fd, waiting.prepared)
        waiting.accounts = identity.read_accounts(root_fd)
    except OSError:
        inner_mounts.detach(waiting.prepared)


def _undress(waiting: Waiting) -> None:
    """Leave the root that was given beforehand: another image is wanted."""
    if waiting.root_fd is not None:
        inner_mounts.detach(waiting.prepared)
        syscalls.umount(tree.NEW_ROOT)
        os.close(waiting.root_fd)
        waiting.root_fd = waiting.accounts = None


def _rehearse() -> None:
    """Go once through what a launch does in memory only: the first time dirties pages that are shared with the keeper, a fifth of a millisecond."""
    launch = wire.parse_launch(json.loads(_SAMPLE))
    who = identity.resolve(launch.user, identity.Accounts(passwd=[], groups=[]))
    environment = program.make_environment(launch.env, hostname=launch.hostname, home=who.home)
    program.find_candidates(launch.argv[0], environment)


def _receive_launch(orders: socket.socket) -> tuple[wire.Launch, list[int]]:
    raw, fds = _receive(orders)
    return wire.parse_launch(raw), fds


def _receive(orders: socket.socket) -> tuple[wire.Message, list[int]]:
    """An order and the fds that came with its head; the process ends here when the keeper has gone."""
    head, fds, _, _ = socket.recv_fds(orders, HEAD_BYTES, _MAX_FDS)
    if not head:
        os._exit(0)
    if len(head) < HEAD_BYTES:
        head += _read(orders, HEAD_BYTES - len(head))
    message: wire.Message = json.loads(_read(orders, int(head)))
    return message, fds


def _read(orders: socket.socket, size: int) -> bytes:
    """Exactly *size* bytes: a stream glues messages together, and bytes read too many would lose the fds that belong to them."""
    body = bytearray()
    while len(body) < size:
        part = orders.recv(size - len(body))
        if not part:
            os._exit(0)
        body += part
    return bytes(body)


def _become(launch: wire.Launch, fds: list[int], waiting: Waiting, seccomp_program: bytes) -> NoReturn:
    """Build the root, enter it, give up every right that is not granted, and run the program."""
    stderr, stdout = fds.pop(), fds.pop()
    stdin = fds.pop() if launch.has_input and not launch.has_terminal else -1
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    accounts = _build_root(launch, fds, waiting)
    _enter_root()
    syscalls.sethostname(launch.hostname.encode("utf-8", "surrogateescape"))
    who = _resolve_user(launch.user, accounts)
    if launch.has_terminal:
        _open_terminal(who)
    else:
        os.dup2(stdin if launch.has_input else os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
    confine.close_fds(STATUS_FD + 1)
    confine.drop_from_addable(launch.capabilities)
    confine.set_identity(who.uid, who.gid, who.groups, keep=launch.capabilities)
    program.enter_working_directory(launch.working_dir)
    confine.set_no_new_privs()
    confine.install_filter(seccomp_program)
    try:
        environment = program.make_environment(launch.env, hostname=launch.hostname, home=who.home)
        if launch.init:
            program.execute_under_init(launch.argv, environment, status_fd=STATUS_FD)
        program.execute(launch.argv, environment)
    except program.StepFailed as failure:
        _report(failure)
    os._exit(127)


def _build_root(launch: wire.Launch, fds: list[int], waiting: Waiting) -> identity.Accounts:
    """Have the wanted root at its place with all our mounts in it; its accounts come back. *fds* holds the root unless the shell has it on."""
    accounts, root_fd = waiting.accounts, waiting.root_fd
    if not launch.dressed or root_fd is None:
        _undress(waiting)
        root_fd, accounts = fds[0], None
        _move_root(root_fd)
    if accounts is None:
        inner_mounts.attach(root_fd, waiting.prepared)
        accounts = identity.read_accounts(root_fd)
    inner_mounts.fill(waiting.prepared, launch)
    if launch.volumes:
        volumes.attach(root_fd, launch.volumes, fds[-len(launch.volumes) :])
    return accounts


def _move_root(root_fd: int) -> None:
    target = os.open(tree.NEW_ROOT, os.O_PATH)
    syscalls.move_mount(root_fd, target)
    os.close(target)


def _enter_root() -> None:
    os.chdir(tree.NEW_ROOT)
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".")
    os.chdir("/")


def _open_terminal(who: identity.Identity) -> None:
    """A terminal of our own as input and both outputs. Its master goes to the keeper, which answers once no death can lose it any more."""
    master, terminal = terminals.open_pair(who, columns=_COLUMNS, rows=_ROWS)
    status = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=STATUS_FD)
    socket.send_fds(status, [b"T"], [master])
    if not status.recv(1):
        os._exit(0)
    status.detach()
    os.close(master)
    terminals.become(terminal)


def _resolve_user(user: str, accounts: identity.Accounts) -> identity.Identity:
    try:
        return identity.resolve(user, accounts)
    except identity.UnknownUser as error:
        raise program.StepFailed("spec.user", str(error), reason="InvalidUser") from error


def _report(failure: program.StepFailed) -> None:
    message = {"field": failure.field, "problem": failure.problem, "reason": failure.reason}
    os.write(STATUS_FD, json.dumps(message).encode()[:4000])
