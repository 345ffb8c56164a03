"""A node for the command line: the real door and the real manifests, with a stand-in for the kernel behind them."""

import asyncio
import contextlib
import dataclasses
import os
import struct
import threading
import time

import pytest

from skerry import __main__ as command_line
from skerry_api import sandbox as api
from skerry_api.conditions import Condition
from skerry_node import manifests, sources
from skerry_node.serving import backend, server
from skerry_node.standalone import errors


class Programs:
    """What the fake kernel runs, by the first argument: each gives output and how it ends; None is for ever."""

    TABLE = {  # noqa: RUF012 - a constant
        "hello": ([("stdout", b"hello\n"), ("stderr", b"oops\n")], 0),
        "fail": ([("stdout", b"bad\n")], 37),
        "binary": ([("stdout", b"\x00\xff" * 100_000)], 0),
        "sleep": ([("stdout", b"asleep\n")], None),
        "chatty": ([("stdout", b"chatter\n" * 50_000)], None),
        "stuck": ([], "Retried"),
        "missing": ([], "StartFailed"),
    }


class Node:
    """The Backend of a standalone agent whose sandboxes are values; it reconciles in the event loop's own task."""

    def __init__(self, path) -> None:
        self.path = path
        self.source = manifests.ManifestSource(f"{path}/manifests", f"{path}/status", poll_seconds=0.01)
        self.stored = {"busybox:latest": backend.Image("busybox:latest", "sha256:" + "ab" * 32, 4_300_000, 2)}
        os.makedirs(f"{path}/manifests", exist_ok=True)

    async def run(self):
        async for change in self.source.watch():
            match change:
                case sources.Snapshot(found):
                    for sandbox in found:
                        await self._reconcile(sandbox)
                case sources.Upsert(sandbox):
                    await self._reconcile(sandbox)

    async def _reconcile(self, sandbox):
        if sandbox.metadata.deletion_timestamp:
            await self.source.remove_finalizer(sandbox)
            return
        output, end = Programs.TABLE[(sandbox.spec.args or ("sleep",))[0]]
        is_stopped = sandbox.spec.desired_state is api.DesiredState.STOPPED
        if end == "StartFailed":
            status, reason, message, code = "False", "CommandNotFound", "spec.command: no missing in the image", None
        elif is_stopped:
            status, reason, message, code = "False", "Stopped", "", None if end == "Retried" else 143
        elif end == "Retried":
            status, reason, message, code = "False", "StartFailed", "no address is free", None
        elif end is None:
            status, reason, message, code = "True", "Running", "", None
            self._log(sandbox, output)
        else:
            status, reason, message, code = "False", "Completed" if end == 0 else "Error", "", end
            self._log(sandbox, output)
        termination = None
        if end == "StartFailed":
            termination = api.Termination(reason=api.TerminationReason.START_FAILED, message=message)
        elif code is not None:
            termination = api.Termination(reason=api.TerminationReason(reason), exit_code=code)
        condition = Condition(
            type="Ready",
            status=status,
            reason=reason,
            message=message,
            last_transition_time="2026-01-31T12:00:00Z",
            observed_generation=sandbox.metadata.generation,
        )
        phase = {"True": api.Phase.RUNNING}.get(status, api.Phase.FAILED if code else api.Phase.SUCCEEDED)
        new = dataclasses.replace(
            sandbox.status,
            observed_generation=sandbox.metadata.generation,
            phase=phase,
            conditions=(condition,),
            termination=termination,
            started_at=None if isinstance(end, str) else "2026-01-31T12:00:00Z",
            start_duration_milliseconds=3,
        )
        await self.source.write_status(sandbox, status=new)

    def _log(self, sandbox, output):
        directory = self.log_directory(sandbox)
        if os.path.exists(directory):  # it ran before this agent
            return
        os.makedirs(directory)
        for stream, data in output:
            with open(f"{directory}/{stream}.{0:020d}", "ab") as file:
                file.write(data)
                end = file.tell()
            with open(f"{directory}/{stream}.index", "ab") as file:
                file.write(struct.pack("<QQ", end, time.time_ns()))

    def info(self):
        return backend.Info("1.2.3", "node-1", is_standalone=True, details={"features": {"cgroup": 2}})

    def list(self):
        return self.source.sandboxes()

    async def await_list(self):
        pass

    def find(self, namespace, name):
        wanted = (namespace, name)
        return next((s for s in self.list() if (s.metadata.namespace, s.metadata.name) == wanted), None)

    async def inspect(self, sandbox):
        return {"layers": [], "name": sandbox.metadata.name}

    async def create(self, raw):
        return await self.source.create(raw)

    async def set_desired_state(self, sandbox, *, state, grace_seconds=None):
        return await self.source.set_desired_state(sandbox, state=state, grace_seconds=grace_seconds)

    async def delete(self, sandbox):
        await self.source.delete(sandbox)

    async def import_image(self, path, *, reference):  # noqa: ARG002 - the fake reads no file
        self.stored[reference] = backend.Image(reference, "sha256:" + "cd" * 32, 5, 1)
        return (self.stored[reference],)

    async def pull_image(self, reference, *, docker_config):
        """Half of it comes; `wrong:1` then breaks off, unless the right config opens it."""
        layer = {"digest": "sha256:" + "ef" * 32, "sizeBytes": 2000, "receivedBytes": 1000, "isDone": False, "wasHere": False}
        yield {"reference": reference, "receivedBytes": 1000, "totalBytes": 2000, "layers": [layer]}
        if reference == "wrong:1" and docker_config != b"right":
            raise backend.Refused("the registry answers 401: UNAUTHORIZED", reason="ImagePullFailed", field="reference")
        self.stored[reference] = backend.Image(reference, "sha256:" + "ef" * 32, 5, 1)
        yield self.stored[reference]

    def images(self):
        return tuple(self.stored.values())

    async def remove_image(self, reference):
        if self.stored.pop(reference, None) is None:
            raise errors.NotFound("no such image")

    def log_directory(self, sandbox):
        return f"{self.path}/logs/{sandbox.metadata.uid}"


class Agent:
    """A thread that serves one Node until stopped; another may follow it on the same directories."""

    def __init__(self, path) -> None:
        self.path = path
        self.socket = f"{path}/agent.sock"
        self.start()

    def start(self):
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def _run(self):
        self._task = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self):
        node = Node(self.path)
        served = await server.start(node, path=self.socket)
        try:
            self._ready.set()
            await node.run()
        finally:
            await served.close()


@pytest.fixture
def agent(tmp_path):
    """A running agent."""
    served = Agent(str(tmp_path))
    yield served
    served.stop()


@pytest.fixture
def skerry(agent, monkeypatch, capfdbinary):
    """Run a command line: exit code, stdout, stderr."""
    monkeypatch.setenv("SKERRY_SOCKET", agent.socket)

    def run(*arguments: str):
        code = command_line.run(["skerry", *arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode(errors="surrogateescape"), err.decode(errors="surrogateescape")

    return run
