"""The child: from a fresh set of namespaces to the user's program. Runs inside every namespace of the sandbox, as its root.

It imports nothing, looks up no name and starts no helper: everything it meets below the new root is hostile. It waits for orders on a socket
and dies when the keeper does. Set-up is a list of steps in order; the first that fails is reported by name on the status pipe.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from typing import NoReturn

from skerry_node.keeper import confine, identity, inner_mounts, link, tree, wire
from skerry_node.kernel import syscalls

ORDER_FD = STATUS_FD = 3
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HEAD_BYTES = 16
"""An order opens with its length as decimal text of this many bytes."""
_MAX_FDS = 8


class StepFailed(Exception):
    """A step of the set-up failed; *field* is the manifest's field to look at, empty when it is not the manifest's fault."""

    def __init__(self, field: str, problem: str, *, reason: str = "StartFailed") -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem
        self.reason = reason


def main(orders: socket.socket, seccomp_program: bytes) -> NoReturn:
    """Live as the first process of a sandbox: prepare, wait, become the program. Never returns."""
    try:
        prepared = _settle(orders)
        launch, fds = _receive_launch(orders)
        os.dup2(fds.pop(), STATUS_FD, inheritable=False)  # in the place of the orders, where close_fds leaves it open
        try:
            _become(launch, fds, prepared, seccomp_program)
        except StepFailed as failure:
            _report(failure)
        except OSError as error:
            _report(StepFailed("", str(error)))
    except BaseException:  # noqa: BLE001, S110 - nothing may unwind into the keeper's own code, whose copy this process is
        pass
    os._exit(127)


def _settle(orders: socket.socket) -> inner_mounts.Prepared:
    """Wait until the keeper has mapped our ids and moved our link in, then become root and prepare all that can be."""
    head = _read(orders, HEAD_BYTES)
    order = json.loads(_read(orders, int(head)))
    shell = wire.parse_shell(order)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)
    confine.set_dumpable(False)
    os.setsid()
    if not order["host_network"]:
        link.configure_inside(shell.link)
    confine.drop_bounding_set(confine.ADDABLE_MASK)
    confine.set_rlimits()
    _reset_signals()
    return inner_mounts.prepare(host_network=order["host_network"])


def _receive_launch(orders: socket.socket) -> tuple[wire.Launch, list[int]]:
    """The launch and the fds that came with its head; the process ends here when the keeper has gone."""
    head, fds, _, _ = socket.recv_fds(orders, HEAD_BYTES, _MAX_FDS)
    if not head:
        os._exit(0)
    return wire.parse_launch(json.loads(_read(orders, int(head)))), fds


def _read(orders: socket.socket, size: int) -> bytes:
    """Exactly *size* bytes: a stream glues messages together, and bytes read too many would lose the fds that belong to them."""
    body = bytearray()
    while len(body) < size:
        part = orders.recv(size - len(body))
        if not part:
            os._exit(0)
        body += part
    return bytes(body)


def _become(launch: wire.Launch, fds: list[int], prepared: inner_mounts.Prepared, seccomp_program: bytes) -> NoReturn:
    """Build the root, enter it, give up every right that is not granted, and run the program."""
    root_fd, stdout, stderr = fds
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    _enter_root(launch, prepared, root_fd)
    syscalls.sethostname(launch.hostname.encode("utf-8", "surrogateescape"))
    who = _resolve_user(launch.user)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    confine.close_fds(STATUS_FD + 1)
    confine.drop_from_addable(launch.capabilities)
    confine.set_identity(who.uid, who.gid, who.groups, keep=launch.capabilities)
    _enter_working_directory(launch.working_dir)
    confine.set_no_new_privs()
    confine.install_filter(seccomp_program)
    try:
        _execute(launch, who)
    except StepFailed as failure:
        _report(failure)
    os._exit(127)


def _enter_root(launch: wire.Launch, prepared: inner_mounts.Prepared, root_fd: int) -> None:
    target = os.open(tree.NEW_ROOT, os.O_PATH)
    syscalls.move_mount(root_fd, target)
    os.chdir(tree.NEW_ROOT)
    inner_mounts.attach(os.open(".", os.O_PATH), prepared, launch)
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".")
    os.chdir("/")


def _resolve_user(user: str) -> identity.Identity:
    try:
        return identity.resolve(user)
    except identity.UnknownUser as error:
        raise StepFailed("spec.user", str(error), reason="InvalidUser") from error


def _enter_working_directory(path: str) -> None:
    """Go to *path* without magic links, so that no fd of ours can be a way out; make it when it is missing, as docker does."""
    relative = path.encode("utf-8", "surrogateescape").lstrip(b"/") or b"."
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        inner_mounts.ensure_directory(root, relative)
        fd = syscalls.openat2(root, relative, flags=os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        os.fchdir(fd)
        os.close(fd)
        if not os.getcwd().startswith("/"):  # "(unreachable)" tells of a directory outside the root
            raise StepFailed("spec.workingDir", f"{path!r} is outside the root filesystem", reason="InvalidWorkingDir")
    except OSError as error:
        problem = f"cannot enter {path!r}: {os.strerror(error.errno or 0).lower()}; name a directory of the image"
        raise StepFailed("spec.workingDir", problem, reason="InvalidWorkingDir") from error
    finally:
        os.close(root)


def _reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a program starts with every signal at its default and none blocked."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)


def _execute(launch: wire.Launch, who: identity.Identity) -> NoReturn:
    environment = _environment(launch, who)
    program = launch.argv[0]
    if "/" in program:
        candidates = [program]
    else:
        path = environment.get(b"PATH", b"").decode("utf-8", "surrogateescape")
        candidates = [f"{directory or '.'}/{program}" for directory in path.split(":")]
    failure: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, launch.argv, environment)  # noqa: S606 - this is what we are for
        except OSError as error:
            if failure is None or error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                failure = error
    number = failure.errno if failure and failure.errno else errno.ENOENT
    problem = f"cannot run {program!r}: {os.strerror(number).lower()}"
    if number in {errno.ENOENT, errno.ENOTDIR}:
        problem = f"no program {program!r} in the image; name one that is there, by path or found through PATH"
    raise StepFailed("spec.command", problem, reason="CommandNotFound" if number == errno.ENOENT else "CannotRunCommand")


def _environment(launch: wire.Launch, who: identity.Identity) -> dict[bytes, bytes]:
    environment = {b"PATH": _DEFAULT_PATH.encode(), b"HOSTNAME": launch.hostname.encode(), b"HOME": who.home}
    for entry in launch.env:
        name, _, value = entry.encode("utf-8", "surrogateescape").partition(b"=")
        environment[name] = value
    return environment


def _report(failure: StepFailed) -> None:
    message = {"field": failure.field, "problem": failure.problem, "reason": failure.reason}
    os.write(STATUS_FD, json.dumps(message).encode()[:4000])
