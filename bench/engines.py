"""Peers that need an engine: containerd and docker, each started for the bench with directories and sockets of its own, and ended by pid."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from tests.harness import images
from tests.harness.processes import Process

Runner = Callable[[int], None]
"""Runs `true` once, in a container with this number, to its end."""
_READY_SECONDS = 30.0
_CONTAINERD_CONFIG = """\
version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{0}/containerd.sock"
[ttrpc]
  address = "{0}/containerd.sock.ttrpc"
"""


class NotMeasured(Exception):
    """A peer is not there or does not run here; the message says which and why."""


@contextlib.contextmanager
def containerd(directory: str, layout: str) -> Iterator[Runner]:
    """`ctr run --rm` of the image in *layout*. Raises NotMeasured."""
    program = _require("containerd", "ctr", "runc")
    os.makedirs(directory)
    config = os.path.join(directory, "config.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(_CONTAINERD_CONFIG.format(directory))
    ctr = ["ctr", "--address", os.path.join(directory, "containerd.sock")]
    archive = os.path.join(directory, "image.tar")
    run(["tar", "-C", layout, "-cf", archive, "."])
    with _engine([program, "--config", config], os.path.join(directory, "log"), [*ctr, "version"]):
        run([*ctr, "images", "import", archive])
        yield lambda number: run([*ctr, "run", "--rm", images.REFERENCE, f"skbench{number}", "/bin/true"])


@contextlib.contextmanager
def docker(directory: str, root: str) -> Iterator[Runner]:
    """`docker run --rm --network none` of the files in *root*. Its engine makes no bridge and no rules. Raises NotMeasured."""
    program = _require("dockerd", "docker", "containerd", "runc")
    os.makedirs(directory)
    socket = f"unix://{directory}/docker.sock"
    places = [f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/docker.pid", f"--host={socket}"]
    client = ["docker", "--host", socket]
    command = [program, *places, "--bridge=none", "--iptables=false", "--ip6tables=false"]
    with _engine(command, os.path.join(directory, "log"), [*client, "info"]):
        run(["sh", "-c", 'tar -C "$1" -c . | docker --host "$2" import - skbench', "sh", root, socket])
        yield lambda _: run([*client, "run", "--rm", "--network=none", "skbench", "/bin/true"])


def run(command: Sequence[str]) -> None:
    """Run a command to its end. Raises NotMeasured with its last words."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotMeasured(f"{' '.join(command[:6])}: {(done.stderr or done.stdout).strip()[-500:]}")


def _require(*programs: str) -> str:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise NotMeasured(f"{programs[0]}: {', '.join(missing)} not installed")
    return shutil.which(programs[0]) or programs[0]


def _find_traces() -> set[str]:
    """What engines make outside of the directories that they are given: empty control groups and sockets of shims."""
    groups = glob.glob("/sys/fs/cgroup/*/default") + glob.glob("/sys/fs/cgroup/*/docker") + glob.glob("/sys/fs/cgroup/d*")
    return {*filter(os.path.isdir, groups), *filter(os.path.isdir, ("/run/containerd", "/run/docker"))}


def _remove_trace(path: str) -> None:
    if path.startswith("/run/"):
        shutil.rmtree(path, ignore_errors=True)
        return
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):  # somebody lives in it
            os.rmdir(directory)


@contextlib.contextmanager
def _engine(command: Sequence[str], log_path: str, probe: Sequence[str]) -> Iterator[None]:
    before = _find_traces()
    engine = Process(command, log_path=log_path)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            if not engine.is_running or time.monotonic() > deadline:
                with open(log_path, encoding="utf-8", errors="replace") as file:
                    raise NotMeasured(f"{engine.name} does not start here: {file.read()[-500:]}")
            time.sleep(0.1)
        yield
    finally:
        engine.stop()
        for path in _find_traces() - before:
            _remove_trace(path)
