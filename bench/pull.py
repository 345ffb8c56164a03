"""Pull to ready: the same image from one registry on loopback, by ours, containerd's `ctr images pull`, and skopeo with umoci, in turn.

In parts where the machine is quiet for a short while only: `python -m bench pull --part gzip --rounds 1`.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bench import synthetic
from bench.row import Row
from tests.harness import assets, registry, standalone
from tests.harness.agents import wait_for
from tests.harness.processes import Process

ROUNDS = 3
PARTS = ("gzip", "zstd", "skopeo", "second")
"""Ours beside containerd with gzip, with zstd; ours beside skopeo and umoci; a second image on the same base."""
_REST_SECONDS = 0.05
_GZIP, _ZSTD = "pull to ready: 8 layers, 34,000 files, gzip", "pull to ready: 8 layers, 34,000 files, zstd"
_REMOVE, _MEMORY, _SECOND = "removal of that image", "peak memory of that pull, all processes", "bytes moved for a second image on that base"
_CONFIG = """version = 3
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
  address = "{0}/containerd.sock"
[ttrpc]
  address = "{0}/containerd.sock.ttrpc"
"""


def measure(directory: str, *, parts: Iterable[str] = PARTS, rounds: int = ROUNDS) -> Iterable[Row]:
    """Rows in seconds, MB and milliseconds. Needs docker-registry, skopeo, umoci; builds containerd when it is not in the cache."""
    layout, wanted = synthetic.ensure_layout(), set(parts)
    packed = ensure_zstd(layout) if "zstd" in wanted else ""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(registry.running(os.path.join(directory, "registry")))
        gzipped = source.push(f"oci:{layout}:{synthetic.NAME}", "bench/gzip:1", "--preserve-digests")
        zstd = source.push(f"oci:{packed}:{synthetic.NAME}", "bench/zstd:1", "--preserve-digests") if packed else ""
        ours = _Ours(stack.enter_context(standalone.running(os.path.join(directory, "ours"), tag="bl")))
        engine = stack.enter_context(_containerd(os.path.join(directory, "containerd"))) if wanted & {"gzip", "zstd"} else None
        found = _Samples()
        _rest(ours.agent.pid)
        for _ in range(rounds if wanted - {"second"} else 0):
            for what, reference in ((_GZIP, gzipped if wanted & {"gzip", "skopeo"} else ""), (_ZSTD, zstd)):
                if reference:
                    _measure_ours(found, ours, what, reference)
                if reference and engine is not None:
                    _measure_containerd(found, engine, what, reference)
            if "skopeo" in wanted:
                _measure_skopeo(found, os.path.join(directory, "skopeo"), gzipped)
        if "second" in wanted:
            second = synthetic.write_second(os.path.join(directory, "second"), layout)
            on_top = source.push(f"oci:{second}:{synthetic.NAME}", "bench/second:1", "--preserve-digests")
            ours.pull(gzipped)
            found.add("skerry", _SECOND, "MB", ours.pull(on_top) / 1e6)
        yield from found.rows()


def ensure_zstd(layout: str) -> str:
    """The image of *layout* with layers of zstd, by skopeo; kept beside it."""
    packed = f"{layout}-zstd"
    if not os.path.exists(packed):
        temporary = f"{packed}.{os.getpid()}"
        image = f"{temporary}:{synthetic.NAME}"
        _run("skopeo", "--insecure-policy", "copy", "-q", "--dest-compress-format=zstd", f"oci:{layout}:{synthetic.NAME}", f"oci:{image}")
        os.rename(temporary, packed)
    return packed


@dataclass
class _Samples:
    _found: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def add(self, system: str, what: str, unit: str, value: float) -> None:
        print(f"  {system}: {what}: {value:.2f} {unit}", flush=True)
        self._found.setdefault((system, what, unit), []).append(value)

    def rows(self) -> Iterator[Row]:
        for (system, what, unit), samples in self._found.items():
            yield Row(system, what, unit, samples)


class _Ours:
    """A standalone agent, asked as the CLI asks it."""

    def __init__(self, agent: standalone.Standalone) -> None:
        self.agent = agent

    def pull(self, reference: str) -> int:
        """Pull it; bytes moved come back."""
        moved = 0
        for found in self.agent.client.pull_image(reference):
            moved = (found.get("progress") or {}).get("totalBytes", moved)
        return int(moved)


def _measure_ours(found: _Samples, ours: _Ours, what: str, reference: str) -> None:
    with _peak(ours.agent.pid) as memory:
        began = time.perf_counter()
        ours.pull(reference)
        found.add("skerry", what, "s", time.perf_counter() - began)
    if what == _GZIP:
        found.add("skerry", _MEMORY, "MB", memory[0])
    began = time.perf_counter()
    ours.agent.client.remove_image(reference)
    if what == _GZIP:
        found.add("skerry", _REMOVE, "ms", (time.perf_counter() - began) * 1000)
    _settle()


def _measure_containerd(found: _Samples, engine: _Engine, what: str, reference: str) -> None:
    with _peak(engine.pid) as memory:
        began = time.perf_counter()
        _run(*engine.ctr, "images", "pull", "--plain-http", reference)
        found.add("containerd", what, "s", time.perf_counter() - began)
    if what == _GZIP:
        found.add("containerd", _MEMORY, "MB", memory[0])
    began = time.perf_counter()
    _run(*engine.ctr, "images", "rm", "--sync", reference)
    if what == _GZIP:
        found.add("containerd", _REMOVE, "ms", (time.perf_counter() - began) * 1000)
    _settle()


def _measure_skopeo(found: _Samples, directory: str, reference: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    began = time.perf_counter()
    _run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"oci:{directory}/layout:x")
    _run("umoci", "unpack", "--image", f"{directory}/layout:x", f"{directory}/bundle")
    found.add("skopeo+umoci", _GZIP, "s", time.perf_counter() - began)
    shutil.rmtree(directory)
    _settle()


@dataclass(frozen=True)
class _Engine:
    ctr: tuple[str, ...]
    pid: int


@contextlib.contextmanager
def _containerd(directory: str) -> Iterator[_Engine]:
    programs = assets.ensure_containerd()
    os.makedirs(directory)
    config = os.path.join(directory, "config.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(_CONFIG.format(directory))
    ctr = (programs.ctr, "--address", os.path.join(directory, "containerd.sock"))
    engine = Process([programs.containerd, "--config", config], log_path=os.path.join(directory, "log"))
    try:
        wait_for(engine, "containerd answering", lambda: subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0)
        yield _Engine(ctr, engine.pid)
    finally:
        engine.stop()
        _unmount_below(directory)


def _unmount_below(directory: str) -> None:
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        points = [line.split()[4] for line in file if line.split()[4].startswith(directory)]
    for point in reversed(points):
        subprocess.run(["umount", point], check=False)


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    """The most memory that *pid* and its descendants hold at once, in MB: proportional set size, five looks a second; in the list at the end."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], sum(_read_pss(each) for each in _descendants(pid)) / 1000)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _descendants(pid: int) -> set[int]:
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            text = file.read()
            parents[int(text.split()[0])] = int(text.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _read_pss(pid: int) -> int:
    """Kilobytes; 0 for one that is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    return 0


def _rest(pid: int) -> None:
    """Wait until *pid* and its descendants do next to nothing: an agent that has just started makes its shells. 20 s at most."""
    deadline, used = time.monotonic() + 20, -1.0
    while time.monotonic() < deadline:
        before, used = used, sum(map(_read_cpu, _descendants(pid)))
        if 0 <= used - before < _REST_SECONDS:
            return
        time.sleep(1)


def _read_cpu(pid: int) -> float:
    """Seconds of processor time; 0 for one that is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _settle() -> None:
    """Let the disk come to rest: what one leaves to be written is not the next one's cost."""
    os.sync()


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr[-1000:]}")
