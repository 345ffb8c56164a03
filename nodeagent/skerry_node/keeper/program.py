"""From a set-up root to the user's program: its working directory, its environment, where it is found, execve. Runs in the child.

Everything met here is hostile: nothing is imported, no name is looked up, and no path is followed through a magic link.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterable
from typing import NoReturn

from skerry_node.keeper import init_binary
from skerry_node.kernel import paths, syscalls

_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class StepFailed(Exception):
    """A step of the set-up failed; *field* is the manifest's field to look at, empty when it is not the manifest's fault."""

    def __init__(self, field: str, problem: str, *, reason: str = "StartFailed") -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem
        self.reason = reason


def enter_working_directory(path: str, *, is_made: bool = True) -> None:
    """Go to *path* without magic links, so that no fd of ours can be a way out; with *is_made*, make it when it is missing, as docker does."""
    relative = path.encode("utf-8", "surrogateescape").lstrip(b"/") or b"."
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        if is_made:
            paths.ensure_directory(root, relative)
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


def reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, the keeper INT and HUP; a program starts with every signal at its default and none blocked."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)


def execute(argv: tuple[str, ...], environment: dict[bytes, bytes]) -> NoReturn:
    """Become the program that *argv* names, looked up in the environment's PATH. Raises StepFailed."""
    program = argv[0]
    failure: OSError | None = None
    for candidate in find_candidates(program, environment):
        try:
            os.stat(candidate)  # a failing execve costs ten times as much
            os.execve(candidate, argv, environment)  # noqa: S606 - this is what we are for
        except OSError as error:
            if failure is None or error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                failure = error
    number = failure.errno if failure and failure.errno else errno.ENOENT
    problem = f"cannot run {program!r}: {os.strerror(number).lower()}"
    if number in {errno.ENOENT, errno.ENOTDIR}:
        problem = f"no program {program!r} in the image; name one that is there, by path or found through PATH"
    raise StepFailed("spec.command", problem, reason="CommandNotFound" if number == errno.ENOENT else "CannotRunCommand")


def execute_under_init(argv: tuple[str, ...], environment: dict[bytes, bytes], *, status_fd: int) -> NoReturn:
    """Become our own first process, which starts the program that *argv* names as its child (init.c). Raises StepFailed.

    Whether the program can be run is known only there: it gets the words for *status_fd*, and closes that once the program runs.
    """
    program = argv[0]
    path = next((each for each in find_candidates(program, environment) if os.access(each, os.X_OK) and not os.path.isdir(each)), None)
    if path is None:
        execute(argv, environment)  # it says why not
    failure = {"field": "spec.command", "problem": f"cannot run {program!r}: the kernel cannot execute it", "reason": "CannotRunCommand"}
    try:
        fd = init_binary.open_program()
    except init_binary.NoInit as error:
        raise StepFailed("spec.init", str(error)) from error
    os.set_inheritable(status_fd, True)  # noqa: FBT003 - as it is called
    os.execve(fd, ("skerry-init", json.dumps(failure)[:4000], path, *argv), environment)  # noqa: S606 - this is what we are for


def find_candidates(program: str, environment: dict[bytes, bytes]) -> list[str]:
    """Where *program* may be: at its path, or in the directories of PATH."""
    if "/" in program:
        return [program]
    path = environment.get(b"PATH", b"").decode("utf-8", "surrogateescape")
    return [f"{directory or '.'}/{program}" for directory in path.split(":")]


def make_environment(entries: Iterable[str], *, hostname: str, home: bytes) -> dict[bytes, bytes]:
    """The environment of a program: PATH, HOSTNAME and HOME unless *entries* (`NAME=value`) say otherwise."""
    environment = {b"PATH": _DEFAULT_PATH, b"HOSTNAME": hostname.encode(), b"HOME": home}
    for entry in entries:
        name, _, value = entry.encode("utf-8", "surrogateescape").partition(b"=")
        environment[name] = value
    return environment
