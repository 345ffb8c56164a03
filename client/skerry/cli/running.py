"""`skerry run`: create, follow, and end as the program ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.cli import joining, manifests, options, output
from skerry.client import Client
from skerry.errors import AgentUnavailable, Refused, SkerryError

if TYPE_CHECKING:
    from skerry_api.conditions import Condition
    from skerry_api.sandbox import Sandbox

FAILED = 125
"""Our own failure, as docker has it; everything else is the program's."""
UNABLE = {"CommandNotFound": 127, "CannotRunCommand": 126}
"""Exit codes of shells, and docker's, for a program that is not there or cannot be run."""
_RECONNECT_SECONDS = 30.0
_START_SECONDS = 60.0
_PATIENCE_SECONDS = 2.0


def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image; pulled when it is not in the store.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="Replace the image's command.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the name and leave it running.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Pass our input on, and hold it open.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    rm: Annotated[bool, typer.Option("--rm", help="Remove the sandbox when it has ended.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Set a variable; without a value, pass it on."),
    ] = None,
    env_file: Annotated[
        list[str] | None,
        typer.Option("--env-file", metavar="FILE", help="Variables from a file of such lines; -e wins over it."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option("--volume", "-v", metavar="[SOURCE:]PATH[:ro]", help="Mount the node's /SOURCE, or an empty volume that goes with the sandbox."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="A name; made up when left out.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", "-m", metavar="SIZE", help="Memory limit: 64m, 1g, 256Mi.")] = None,
    cpus: Annotated[str | None, typer.Option("--cpus", metavar="NUMBER", help="CPU limit: 0.5, 2, 250m.")] = None,
    pids_limit: Annotated[int | None, typer.Option("--pids-limit", metavar="N", min=1, help="Processes and threads at most.")] = None,
    network: Annotated[str | None, typer.Option("--network", metavar="MODE", help="bridge, none or host.")] = None,
    publish: Annotated[
        list[str] | None, typer.Option("--publish", "-p", metavar="[ADDRESS:]PORT:PORT[/udp]", help="Publish a port on the node: 8080:80.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="UID[:GID]", help="Whom to run as.")] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", metavar="PATH", help="Working directory.")] = None,
    hostname: Annotated[str | None, typer.Option("--hostname", metavar="NAME", help="Host name inside; default: the name.")] = None,
    restart: Annotated[str | None, typer.Option("--restart", metavar="POLICY", help="no, on-failure, always, unless-stopped (the same).")] = None,
    idle_seconds: Annotated[int | None, typer.Option("--idle-seconds", metavar="N", min=1, help="How long it may be idle.")] = None,
    on_idle: Annotated[str | None, typer.Option("--on-idle", metavar="ACTION", help="Then: pause (default), stop, delete.")] = None,
    init: Annotated[bool, typer.Option("--init", help="Put a tiny first process before it: reaps orphans, forwards signals.")] = False,
    pull: Annotated[str | None, typer.Option("--pull", metavar="POLICY", help="always, missing (default), never.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Mount the root filesystem read-only.")] = False,
    entrypoint: Annotated[str | None, typer.Option("--entrypoint", metavar="PROGRAM", help="Replace the image's entry point.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label.")] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Run a program in a new sandbox.

    In the foreground its output comes here and its exit code is ours; Ctrl-C stops it. It stays, stopped, until
    `skerry rm`, unless --rm is given. With -it its terminal is ours; Ctrl-P Ctrl-Q detaches, and `skerry attach` goes on.
    """
    if interactive and tty and not detach and not os.isatty(0):
        raise typer.BadParameter("our input is not a terminal; leave -t out", param_hint="--tty")
    client = options.connect(socket, namespace)
    wanted = manifests.RunOptions(
        image=image,
        arguments=arguments or (),
        name=name,
        entrypoint=entrypoint,
        env=env or (),
        env_files=env_file or (),
        volumes=volume or (),
        labels=label or (),
        memory=memory,
        cpus=cpus,
        pids_limit=pids_limit,
        network=network,
        ports=publish or (),
        user=user,
        workdir=workdir,
        hostname=hostname,
        restart=restart,
        has_init=init,
        idle_seconds=idle_seconds,
        on_idle=on_idle,
        pull=pull,
        is_read_only=read_only,
        is_removed=rm,
        is_detached=detach,
        has_input=interactive,
        has_terminal=tty,
    )
    try:
        manifest = manifests.render(wanted, namespace=client.namespace, environment=os.environ, directory=os.getcwd())
    except manifests.BadOptionError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from error
    sandbox = client.create(manifest)
    code = _start_detached(client, sandbox, is_removed=rm) if detach else _run_in_foreground(client, sandbox, is_removed=rm)
    raise typer.Exit(code)


def _start_detached(client: Client, sandbox: Sandbox, *, is_removed: bool) -> int:
    name = sandbox.metadata.name
    try:
        started = client.wait(name, condition="Ready", timeout_seconds=_START_SECONDS)
    except Refused as error:
        # One that --rm removes may have come and gone before it is asked for.
        has_gone = error.reason == "Gone" or (is_removed and error.status == 404)
        if error.reason != "Timeout" and not has_gone:
            raise
        if error.reason == "Timeout":
            output.print_error(f"{name} has not started yet", hint=f"look at it: skerry inspect {name}")
        started = None
    if started is not None and (problem := find_problem(started)) is not None:
        return _give_up(client, name, problem)
    print(name)
    return 0


def _run_in_foreground(client: Client, sandbox: Sandbox, *, is_removed: bool) -> int:
    name = sandbox.metadata.name
    finished = None
    has_input, has_terminal = sandbox.spec.stdin, sandbox.spec.tty
    with _stopping_on_signals(client, name):
        _await_start(client, name)
        if not (has_input or has_terminal):
            _copy_output(client, name)
        elif not joining.join_new(client, name, has_input=has_input, has_terminal=has_terminal):
            joining.say_detached(name)
            return 0
        finished = _await_end(client, name)
    if finished is None:
        output.print_error(f"{name} was removed by somebody else before it ended")
        return FAILED
    if (problem := find_problem(finished, is_new_start=False)) is not None:
        return _give_up(client, name, problem)
    if is_removed:
        with contextlib.suppress(Refused):
            client.delete(name)
            client.wait(name, condition="Deleted", timeout_seconds=_START_SECONDS)
    termination = finished.status.termination
    if termination is None:
        output.print_error(f"{name} was stopped before it had started")
        return FAILED
    if termination.reason not in {"Completed", "Error", "Stopped"}:
        output.print_error(f"{name} ended: {termination.reason}: {termination.message or ''}".rstrip(": "))
    return FAILED if termination.exit_code is None else termination.exit_code


def find_problem(sandbox: Sandbox, *, is_new_start: bool = True) -> str | None:
    """Why it could not be started, when it could not; None when it runs or has ended.

    With *is_new_start* False the end of an earlier start is an answer as well.
    """
    ready, termination = find_ready(sandbox), sandbox.status.termination
    if ready is None or ready.status == "True" or ready.reason in {"Stopped", "Paused", "Idle"}:
        return None
    has_ended = termination is not None and termination.reason != "StartFailed"
    if has_ended and (not is_new_start or (termination is not None and ready.reason == termination.reason)):
        return None
    return f"{ready.reason}: {ready.message}" if ready.message else ready.reason


def find_ready(sandbox: Sandbox) -> Condition | None:
    """The condition that says whether the program runs."""
    return next((condition for condition in sandbox.status.conditions if condition.type == "Ready"), None)


def _give_up(client: Client, name: str, problem: str) -> int:
    """A sandbox that never ran is of no use to anybody: remove it, so that the next try has the name."""
    with contextlib.suppress(SkerryError):
        client.delete(name)
    output.print_error(f"{name} could not be started: {problem}", hint="nothing is left of it: mend this and run it again")
    return UNABLE.get(problem.partition(":")[0], FAILED)


def _await_start(client: Client, name: str) -> None:
    """Until it has started or nothing more can be hoped for; says what it waits for when that takes long."""
    told = None
    while True:
        with contextlib.suppress(AgentUnavailable):  # a new agent will be asked next
            try:
                client.wait(name, condition="Ready", timeout_seconds=_PATIENCE_SECONDS)
            except Refused as error:
                if error.status != 408:
                    return
                found = client.get(name)
                if found.status.started_at is not None:
                    return
                problem = find_problem(found)
                if problem is not None and problem.startswith("Pulling: ") and problem != told:
                    output.print_note(f"{name}: {problem.removeprefix('Pulling: ')} ...")
                    told = problem
                elif problem not in {None, told}:
                    output.print_error(f"{name} has not started yet: {problem}", hint="it is tried again; Ctrl-C ends it")
                    told = problem
                continue
        return


def _copy_output(client: Client, name: str) -> None:
    """Output to where it belongs until the sandbox has ended; goes on where it was when the agent is replaced.

    A reader that goes away, as `head` does, stops the sandbox.
    """
    cursor = {"stdout": 0, "stderr": 0}
    deadline = None
    while True:
        try:
            for piece in client.logs(name, follow=True, cursor=cursor):
                if not output.print_piece(piece.stream, piece.data):
                    client.stop(name)
                cursor[piece.stream] += len(piece.data)
                deadline = None
        except AgentUnavailable:
            deadline = deadline or time.monotonic() + _RECONNECT_SECONDS
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        except Refused as error:
            if error.status != 404:
                raise
            return
        else:
            return


def _await_end(client: Client, name: str) -> Sandbox | None:
    """The finished sandbox, over a replacement of the agent; None when it is gone."""
    deadline = time.monotonic() + _RECONNECT_SECONDS
    while True:
        try:
            return client.wait(name, condition="Finished")
        except AgentUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        except Refused as error:
            if error.status in {404, 410}:
                return None
            raise


@contextlib.contextmanager
def _stopping_on_signals(client: Client, name: str) -> Iterator[None]:
    """The first Ctrl-C or TERM stops the sandbox, whose end is still awaited; the second leaves it to itself."""
    count = 0

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            output.print_error(f"not waiting for {name} to stop", hint=f"it is being stopped; then: skerry rm {name}")
            raise SystemExit(128 + number)
        with contextlib.suppress(SkerryError):
            client.stop(name)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
