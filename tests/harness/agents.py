"""One node of a cluster on one machine: an agent whose every path, name and range is its own, to be killed and started at will."""

from __future__ import annotations

import glob
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.harness import claims, machine
from tests.harness.processes import Process, ProcessFailed, tail

_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
_READY_SECONDS = 120.0 * machine.PATIENCE
_IDS_PER_SLOT = 65_536
_ID_BASE = 1_000_013_824 & ~0xFFFF  # the agent's own default


@dataclass(frozen=True, slots=True)
class Place:
    """What is an agent's own on the machine."""

    node_name: str
    state_dir: str
    run_dir: str
    cgroup_parent: str
    bridge: str
    address_range: str
    id_base: int
    scratch_bytes: int = 1 << 30
    flags: tuple[str, ...] = field(default=())
    """More flags, as `--shells=0`."""

    def render_flags(self) -> list[str]:
        """The agent's command line."""
        names = ("node_name", "state_dir", "run_dir", "cgroup_parent", "bridge", "address_range", "id_base", "scratch_bytes")
        return [f"--{name.replace('_', '-')}={getattr(self, name)}" for name in names] + ["--stream-address=127.0.0.1:0", *self.flags]


def make_place(index: int, directory: str, *, tag: str, count: int, flags: Sequence[str] = ()) -> Place:
    """The place of agent *index* (from 0) of *count*.

    The node is called *tag* and its number. What the machine sees starts with *tag*'s first two letters and is no one else's: sessions
    side by side do not meet.
    A single agent has room for all the sandboxes an agent can have; several share, with 1,022 addresses each. Sixteen at most.
    """
    if not (0 <= index < count <= 16):
        raise ValueError(f"agent {index} of {count}")
    mark, second = claims.claim_mark(tag), claims.claim_range()
    return Place(
        node_name=f"{tag}-{index}",
        state_dir=os.path.join(directory, f"{tag}-{index}"),
        run_dir=f"/run/skerry-{mark}",
        cgroup_parent=f"skerry-{mark}",
        bridge=f"skerry{mark}",
        address_range=f"10.{second}.0.0/16" if count == 1 else f"10.{second}.{4 * index}.0/22",
        id_base=_ID_BASE + index * 1024 * _IDS_PER_SLOT,
        flags=tuple(flags),
    )


def release_place(place: Place) -> None:
    """Let others have its range of addresses; nothing may be left there."""
    claims.release_range(int(place.address_range.split(".")[1]))


class Agent:
    """The agent of one place. Its keeper and its sandboxes outlive it; `purge` ends them all."""

    def __init__(self, place: Place, *, kubeconfig: str, log_path: str) -> None:
        self.place = place
        self.name = place.node_name
        self.socket_path = os.path.join(place.run_dir, "agent.sock")
        self.log_path = log_path
        self._flags = [*place.render_flags(), f"--kubeconfig={kubeconfig}"]
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The agent's pid; None while none runs."""
        return self._process.pid if self._process is not None and self._process.is_running else None

    def start(self) -> None:
        """Start the agent; returns at once, see `wait_ready`."""
        self._process = Process([sys.executable, "-m", "skerry_node", *self._flags], log_path=self.log_path, env=python_environment())

    def wait_ready(self) -> None:
        """Wait until it answers on its socket. Raises ProcessFailed with its last words."""
        wait_for(self._process, f"agent {self.name} listening", self._is_listening)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            self._process.stop()

    def restart(self) -> None:
        """Kill it and start it."""
        self.kill()
        self.start()

    def find_keeper(self) -> int | None:
        """The pid of this node's keeper: the process that names its socket and is not the agent."""
        wanted = f'"{os.path.join(self.place.run_dir, "keeper.sock")}"'.encode()
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    words = file.read()
            except OSError:
                continue
            if wanted in words and b"keeper" in words:
                return int(path.split("/")[2])
        return None

    def kill_keeper(self) -> None:
        """End the keeper with SIGKILL, if there is one."""
        pid = self.find_keeper()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def purge(self) -> None:
        """Remove everything of this node, images too. The agent must have ended. Raises ProcessFailed."""
        command = [sys.executable, "-m", "skerry_node", "purge", "--images", *self._flags]
        done = subprocess.run(command, env=python_environment(), check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise ProcessFailed(f"purge of {self.name}: {done.stderr.strip()[-1000:]}")
        release_place(self.place)

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.socket_path)
            except OSError:
                return False
        return True


def wait_for(process: Process | None, what: str, is_done: Callable[[], bool], *, seconds: float = _READY_SECONDS) -> None:
    """Wait until *is_done*, as long as *process* runs. Raises ProcessFailed."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if process is not None:
            process.require_running(what)
        if time.monotonic() > deadline:
            raise ProcessFailed(f"{what}: not after {seconds:.0f} s" + (f"\n{tail(process.log_path)}" if process else ""))
        time.sleep(0.02)


def python_environment() -> Mapping[str, str]:
    """The environment in which this checkout's programs are found."""
    paths = [os.path.join(_ROOT, name) for name in ("api", "operator", "nodeagent", "client", ".")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
