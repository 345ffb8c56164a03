"""Commands that change what shall run: stop, start, pause, unpause, rm, wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.cli import options, output, running
from skerry.errors import Refused

if TYPE_CHECKING:
    from skerry.client import Client
    from skerry_api.sandbox import Sandbox

_SLACK_SECONDS = 60.0
_POLL_SECONDS = 0.05


def stop(
    names: options.Names,
    timeout: Annotated[
        int | None,
        typer.Option("--timeout", "-t", min=0, max=86_400, help="Seconds until KILL; kept as its grace period."),
    ] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Stop sandboxes: TERM, or the image's stop signal, then KILL. Their files stay for `skerry start`."""
    client = options.connect(socket, namespace)

    def stop_one(space: str, name: str) -> None:
        sandbox = client.stop(name, namespace=space, grace_seconds=timeout)
        limit = sandbox.spec.termination_grace_period_seconds + _SLACK_SECONDS
        client.wait(name, namespace=space, condition="Finished", timeout_seconds=limit)

    each(names, namespace, stop_one)


def start(names: options.Names, namespace: options.Namespace = None, socket: options.Socket = None) -> None:
    """Start stopped sandboxes again, with their files."""
    client = options.connect(socket, namespace)

    def start_one(space: str, name: str) -> None:
        client.start(name, namespace=space)
        started = client.wait(name, namespace=space, condition="Ready", timeout_seconds=_SLACK_SECONDS)
        if started is not None and (problem := running.find_problem(started)) is not None:
            raise Refused(f"could not be started: {problem}", status=0, reason="NotStarted")

    each(names, namespace, start_one)


def pause(names: options.Names, namespace: options.Namespace = None, socket: options.Socket = None) -> None:
    """Hold sandboxes still: their processes get no time, and keep their memory. `skerry unpause` lets them go on."""
    client = options.connect(socket, namespace)

    def pause_one(space: str, name: str) -> None:
        found = client.get(name, namespace=space)
        if not _is_running(found) and not _is_idle(found):
            raise Refused(f"it does not run: skerry start {name} first", status=409, reason="NotRunning")
        client.pause(name, namespace=space)
        _await_paused(client, space, name)

    each(names, namespace, pause_one)


def unpause(names: options.Names, namespace: options.Namespace = None, socket: options.Socket = None) -> None:
    """Let paused sandboxes go on."""
    client = options.connect(socket, namespace)

    def unpause_one(space: str, name: str) -> None:
        found = client.get(name, namespace=space)
        if _is_idle(found) and found.spec.desired_state != "Paused":
            raise Refused(f"it is idle, not paused; the next exec or packet wakes it: skerry exec {name} true", status=409, reason="NotPaused")
        if found.spec.desired_state != "Paused":
            raise Refused("it is not paused", status=409, reason="NotPaused")
        client.start(name, namespace=space)
        client.wait(name, namespace=space, condition="Ready", timeout_seconds=_SLACK_SECONDS)

    each(names, namespace, unpause_one)


def _is_idle(found: Sandbox) -> bool:
    """Whether it sleeps because it was idle."""
    ready = running.find_ready(found)
    return ready is not None and ready.reason == "Idle"


def _await_paused(client: Client, space: str, name: str) -> None:
    deadline = time.monotonic() + _SLACK_SECONDS
    while True:
        found = client.get(name, namespace=space)
        ready = running.find_ready(found)
        if ready is not None and ready.reason != "Idle" and (ready.reason == "Paused" or ready.message):
            if ready.reason != "Paused" and ready.message:
                raise Refused(f"cannot be paused: {ready.message}", status=409, reason="NotPaused")
            return
        if time.monotonic() > deadline:
            raise Refused("it is not paused yet; look at it with skerry inspect", status=408, reason="Timeout")
        time.sleep(_POLL_SECONDS)


def rm(
    names: options.Names,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also those that run.")] = False,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Remove sandboxes with their files and output. One that runs has to be stopped first, or --force given."""
    client = options.connect(socket, namespace)

    def remove_one(space: str, name: str) -> None:
        sandbox = client.get(name, namespace=space)
        if _is_running(sandbox) and not force and sandbox.metadata.deletion_timestamp is None:
            raise Refused(f"it runs: skerry stop {name} first, or skerry rm --force", status=409, reason="Running")
        client.delete(name, namespace=space)
        limit = sandbox.spec.termination_grace_period_seconds + _SLACK_SECONDS
        try:
            client.wait(name, namespace=space, condition="Deleted", timeout_seconds=limit)
        except Refused as error:
            if error.status != 404:  # gone between the two requests
                raise

    each(names, namespace, remove_one)


def wait(
    name: options.Name,
    condition: Annotated[str, typer.Option("--for", metavar="WHAT", help="finished, ready or deleted.")] = "finished",
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up then.")] = None,
    namespace: options.Namespace = None,
    socket: options.Socket = None,
) -> None:
    """Wait for a sandbox. When it has finished, print the program's exit code."""
    wanted = condition.capitalize()
    if wanted not in {"Finished", "Ready", "Deleted"}:
        raise typer.BadParameter(f"{condition} is not finished, ready or deleted", param_hint="--for")
    space, own_name = options.split(name, namespace)
    client = options.connect(socket, namespace)
    found = client.wait(own_name, namespace=space, condition=wanted, timeout_seconds=timeout)
    if found is None:
        return
    problem = running.find_problem(found, is_new_start=wanted == "Ready")
    termination = found.status.termination
    if problem is not None or (wanted == "Ready" and not _is_running(found)):
        output.print_error(f"{name} does not run: {problem or 'it has ended'}", hint=f"see: skerry inspect {name}")
        raise typer.Exit(running.FAILED)
    if wanted == "Finished" and termination is not None:
        print("unknown" if termination.exit_code is None else termination.exit_code)


def _is_running(sandbox: Sandbox) -> bool:
    ready = running.find_ready(sandbox)
    return ready is not None and ready.status == "True"


def each(names: list[str], namespace: str | None, act: Callable[[str, str], None]) -> None:
    """Do it for every one, print those that it was done for, and fail at the end when any was refused."""
    is_failed = False
    for name in names:
        try:
            act(*options.split(name, namespace))
        except Refused as error:
            hint = error.hint or ("see what there is: skerry ps -a" if error.status == 404 else "")
            output.print_error(f"{name}: {error}", hint=hint)
            is_failed = True
        else:
            print(name)
    if is_failed:
        raise typer.Exit(running.FAILED)
