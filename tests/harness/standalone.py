"""An agent without a cluster, for kernel tests, the demo and the bench: its own directories and names, purged at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import skerry
from tests.harness import images, machine
from tests.harness.agents import Place, make_place, python_environment, release_place, wait_for
from tests.harness.processes import Process


class Standalone:
    """A running standalone agent. `client` talks to it; `restart` and `kill_keeper` hurt it."""

    def __init__(self, place: Place, directory: str) -> None:
        self.place = place
        self.manifests = os.path.join(directory, "manifests")
        self.log_path = os.path.join(directory, "agent.log")
        self.socket_path = os.path.join(place.run_dir, "agent.sock")
        self.client = skerry.Client(self.socket_path)
        self.flags = [*place.render_flags(), "--standalone", f"--manifests={self.manifests}"]
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The agent's pid."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the agent and wait until it answers."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        self._process = Process([sys.executable, "-m", "skerry_node", *self.flags], log_path=self.log_path, env=python_environment())
        wait_for(self._process, "the agent listening", lambda: os.path.exists(self.socket_path))

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()

    def kill_keeper(self) -> None:
        """SIGKILL to the keeper, and to no child of it."""
        for name in os.listdir("/proc"):
            if name.isdigit() and _is_keeper(int(name), self.place.run_dir.encode()):
                os.kill(int(name), signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.stop()

    def purge(self) -> None:
        """Remove everything of this node."""
        command = [sys.executable, "-m", "skerry_node", "purge", "--images", *self.flags]
        done = subprocess.run(command, env=python_environment(), check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"purge: {done.stderr[-1000:]}")

    def create(self, name: str, *command: str, **spec: Any) -> None:
        """Create a sandbox of busybox, and wait for nothing."""
        body = {"image": "busybox:latest", "command": list(command), **spec}
        manifest = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": body}
        self.client.create(manifest)

    def run(self, name: str, *command: str, **spec: Any) -> Any:
        """Create a sandbox of busybox; returns its object when it has started, or come to an end."""
        self.create(name, *command, **spec)
        return self.wait(name, lambda found: ready_reason(found) not in {"", "Starting"})

    def wait(self, name: str, is_done: Callable[[Any], bool], *, seconds: float = 60.0 * machine.PATIENCE) -> Any:
        """Wait for a state of a sandbox; its object comes back."""
        deadline = time.monotonic() + seconds
        while True:
            found = self._find(name)
            if found is not None and is_done(found):
                return found
            if time.monotonic() > deadline:
                with open(self.log_path, encoding="utf-8") as file:
                    raise TimeoutError(f"{name}: {found and found.status}\n{file.read()[-2000:]}")
            time.sleep(0.01)

    def _find(self, name: str) -> Any:
        """The object, or None while a restarted agent has not read it yet."""
        try:
            return self.client.get(name)
        except skerry.errors.SkerryError:
            return None

    @contextlib.contextmanager
    def sandbox(self, name: str, *command: str, **spec: Any) -> Iterator[Any]:
        """A sandbox for the time of a block, removed whatever happens in it."""
        found = self.run(name, *command, **spec)
        try:
            yield found
        finally:
            self.remove(name)

    def wait_end(self, name: str) -> Any:
        """Wait until the program has ended; its termination comes back."""
        return self.wait(name, lambda found: found.status.termination is not None).status.termination

    def output(self, name: str) -> str:
        """What it wrote to standard output."""
        return b"".join(piece.data for piece in self.client.logs(name) if piece.stream == "stdout").decode()

    def inspect(self, name: str) -> Mapping[str, Any]:
        """What the node knows of it."""
        found = self.client.inspect(name)
        node: Mapping[str, Any] = found.get("node", found)
        return node

    def remove(self, name: str) -> None:
        """Delete it and wait until it is gone."""
        self.client.delete(name)
        deadline = time.monotonic() + 60 * machine.PATIENCE
        while any(each.metadata.name == name for each in self.client.list()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is not gone")
            time.sleep(0.01)


def _is_keeper(pid: int, run_dir: bytes) -> bool:
    """Whether *pid* is the keeper of *run_dir*; its children have its command line, and a pid namespace of their own."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            return b"skerry_node.keeper" in command and run_dir in command and f"NSpid:\t{pid}\n" in file.read()
    except OSError:
        return False


def until(is_done: Callable[[], bool], *, seconds: float = 60.0 * machine.PATIENCE) -> None:
    """Wait for a state of the world. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def ready_reason(found: Any) -> str:
    """The reason of the condition Ready; empty while there is none."""
    return next((each.reason for each in found.status.conditions if each.type == "Ready"), "")


@contextlib.contextmanager
def running(directory: str, *, tag: str, flags: tuple[str, ...] = ()) -> Iterator[Standalone]:
    """A standalone agent with directories below *directory*; afterwards nothing of it is left."""
    place = make_place(0, directory, tag=tag, count=1, flags=flags)
    agent = Standalone(place, directory)
    os.makedirs(agent.manifests, exist_ok=True)
    try:
        agent.start()
        yield agent
    finally:
        agent.stop()
        agent.purge()
        release_place(place)


@contextlib.contextmanager
def running_busybox(directory: str, *, tag: str, flags: tuple[str, ...] = ()) -> Iterator[Standalone]:
    """The same with busybox on it, and all that a first launch makes: books that are opened from here on see nothing new of the node's own.

    Keeper and rules come a moment after the agent listens; before Linux 6.12 a layer's first use attaches a loop device, which stays with it.
    Shells that *flags* ask for are waited for, too.
    """
    shells = next((int(flag.partition("=")[2]) for flag in flags if flag.startswith("--shells=")), None)
    with running(directory, tag=tag, flags=flags) as agent:
        agent.client.import_image(images.busybox_layout(os.path.join(directory, "layout")))
        with agent.sandbox("warm", "true"):
            agent.wait_end("warm")
        until(lambda: shells is None or agent.client.info()["details"]["shellsReady"] == shells)
        yield agent
