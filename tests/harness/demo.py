"""`make demo`: one sandbox from manifest to removal on this machine, in plain words and real output. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tests.harness import images

_NODE = "demo"
_AGENT = [sys.executable, "-m", "skerry_node"]
_CLI = [sys.executable, "-m", "skerry"]


class Demo:
    """An agent of its own in a directory of its own; everything it makes carries the name skdemo."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.run_dir = "/run/skerry-demo"
        self.manifests = os.path.join(directory, "manifests")
        self.flags = [
            "--standalone", "--manifests", self.manifests, "--state-dir", os.path.join(directory, "state"), "--run-dir", self.run_dir,
            "--bridge", "skerrydemo", "--address-range", "10.89.0.0/24", "--cgroup-parent", "skerry-demo", "--node-name", _NODE,
            "--scratch-bytes", str(1 << 30),
        ]  # fmt: skip
        self.environment = {**os.environ, "SKERRY_SOCKET": os.path.join(self.run_dir, "agent.sock")}

    @contextlib.contextmanager
    def agent(self) -> Iterator[None]:
        """A running agent; afterwards the machine is purged."""
        os.makedirs(self.manifests)
        with open(os.path.join(self.directory, "agent.log"), "wb") as log:
            process = subprocess.Popen([*_AGENT, *self.flags], stderr=log, env=self.environment)
        try:
            self.wait_for(lambda: os.path.exists(self.environment["SKERRY_SOCKET"]), "the agent")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            subprocess.run([*_AGENT, "purge", "--images", *self.flags], check=True)

    def cli(self, *arguments: str, check: bool = True) -> str:
        """Run the CLI; its output."""
        done = subprocess.run([*_CLI, *arguments], env=self.environment, text=True, capture_output=True, check=False)
        if check and done.returncode != 0:
            sys.exit(f"skerry {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def show(self, *arguments: str) -> None:
        """Run the CLI in front of the audience."""
        print(f"  $ skerry {' '.join(arguments)}")
        for line in self.cli(*arguments).splitlines():
            print(f"    {line}")

    def inspect(self, name: str) -> dict[str, Any]:
        """The object, with what the node knows."""
        found: dict[str, Any] = json.loads(self.cli("inspect", name))
        return found

    def wait_for(self, is_done: Any, what: str, seconds: float = 20.0) -> None:
        """Wait until *is_done()*; end the demo when it does not come."""
        until = time.monotonic() + seconds
        while not is_done():
            if time.monotonic() > until:
                with open(os.path.join(self.directory, "agent.log"), encoding="utf-8") as log:
                    sys.exit(f"{what} did not come; the agent says:\n{log.read()[-2000:]}")
            time.sleep(0.05)

    def phase(self, name: str) -> str:
        """The phase for people; empty while there is none."""
        done = subprocess.run([*_CLI, "inspect", name], env=self.environment, text=True, capture_output=True, check=False)
        return str(json.loads(done.stdout)["status"]["phase"]) if done.returncode == 0 else ""

    def pid(self, name: str) -> int:
        """The first process of a sandbox, as the host numbers it."""
        found = self.inspect(name)
        return int(found.get("node", found)["pid"])

    def read(self, pid: int, path: str) -> str:
        """A file below /proc/PID."""
        with open(f"/proc/{pid}/{path}", encoding="utf-8") as file:
            return file.read()

    def inside(self, pid: int, path: str) -> str:
        """A file of the sandbox's own /proc/1, seen from the host."""
        with open(f"/proc/{pid}/{path}", encoding="utf-8") as file:
            return " ".join(file.read().split())


def main() -> None:
    """Run the demo."""
    if os.geteuid() != 0:
        sys.exit("make demo needs root: it makes namespaces, mounts and a bridge; run it with sudo")
    directory = tempfile.mkdtemp(prefix="skerry-demo-")
    demo = Demo(directory)
    try:
        with demo.agent():
            _tour(demo)
        _say("Nothing is left")
        for kind, command in _LEFTOVERS.items():
            left = [
                line
                for line in subprocess.run(command, text=True, capture_output=True, check=False).stdout.splitlines()
                if "skerry-demo" in line or "skerrydemo" in line
            ]
            print(f"  {kind:<12} {left or 'none'}")
            if left:
                sys.exit(1)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\nThat was it. README.md goes on from here.")


_LEFTOVERS = {
    "mounts": ["cat", "/proc/self/mountinfo"],
    "links": ["ip", "-o", "link"],
    "cgroups": ["find", "/sys/fs/cgroup", "-maxdepth", "3", "-type", "d", "-name", "skerry*"],
    "nft tables": ["nft", "list", "tables"],
    "processes": ["pgrep", "-af", "skerry-demo/"],
    "files": ["find", "/run", "-maxdepth", "1", "-name", "skerry*"],
}


def _tour(demo: Demo) -> None:
    _say("An image: busybox as an OCI layout, made here, converted into one sealed EROFS file")
    layout = images.busybox_layout(os.path.join(demo.directory, "layout"))
    demo.show("image", "import", layout)
    demo.show("image", "ls")

    _say("A sandbox: examples/sandbox.yaml")
    shutil.copy("examples/sandbox.yaml", demo.manifests)
    demo.wait_for(lambda: demo.phase("hello") == "Running", "the sandbox")
    demo.show("ps")
    seen = demo.inspect("hello")
    node = seen.get("node", seen)
    pid = int(node["pid"])
    print(f"  started in {seen['status']['startDurationMilliseconds']} ms, {seen['status']['launchType']}")

    _say("It is a process of its own world")
    print(f"  on the host it is process {pid}; inside it is process {demo.inside(pid, 'status').split('NSpid: ')[1].split()[1]}")
    print(f"  {'namespace':<10} {'of the host':<24} of the sandbox")
    for kind in ("pid", "mnt", "net", "uts", "ipc", "user", "cgroup"):
        print(f"  {kind:<10} {os.readlink(f'/proc/self/ns/{kind}'):<24} {os.readlink(f'/proc/{pid}/ns/{kind}')}")
    print(f"  uid map (inside, host, count): {demo.inside(pid, 'uid_map')}: root in there is nobody out here")
    status = dict(line.split(":", 1) for line in demo.read(pid, "status").splitlines() if ":" in line)
    print(f"  no new privileges: {status['NoNewPrivs'].strip()}; seccomp: {status['Seccomp'].strip()} (filter); CapEff: {status['CapEff'].strip()}")
    time.sleep(1.2)
    demo.show("logs", "hello")

    _say("A memory limit is held: examples/hog.yaml")
    shutil.copy("examples/hog.yaml", demo.manifests)
    demo.wait_for(lambda: demo.phase("hog") == "Failed", "the end of the hog")
    end = demo.inspect("hog")["status"]["termination"]
    print(f"  {end['reason']}: {end['message']}; exit code {end['exitCode']}, peak {end['peakMemoryBytes']} bytes")

    _say("Layers are never written: a file of the image is deleted, and one is made")
    demo.cli(
        "run",
        "-d",
        "--name",
        "writer",
        "busybox:latest",
        "sh",
        "-c",
        "rm /etc/lower-file; echo kept > /root/mine; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done",
    )
    writer = demo.inspect("writer")
    writer = writer.get("node", writer)
    upper = os.path.join(writer["upper"], "etc/lower-file")
    demo.wait_for(lambda: os.path.lexists(upper), "the deletion")
    found = os.stat(upper)
    print(f"  in the writable layer /etc/lower-file is device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}, which hides the lower one")
    layer = writer["lower"][-1]
    with open(layer, "rb") as file:
        print(f"  the layer still has its content: {b'a file of the image' in file.read()}")

    _say("Stop, and start again with its files")
    demo.show("stop", "writer")
    demo.show("ps", "-a")
    demo.show("start", "writer")
    demo.wait_for(lambda: demo.phase("writer") == "Running", "the second start")
    pid = demo.pid("writer")
    with open(f"/proc/{pid}/root/root/mine", encoding="utf-8") as file:
        print(f"  /root/mine says: {file.read().strip()}")

    _say("Remove")
    demo.show("rm", "-f", "writer", "hog", "hello")
    demo.show("ps", "-a")


def _say(sentence: str) -> None:
    print(f"\n== {sentence}")


if __name__ == "__main__":
    main()
