"""A whole cluster on one machine: control plane, operator, gateway, agents. `python -m tests.harness.cluster` is `make cluster`.

    with Cluster.start(directory, agents=3) as cluster:
        cluster.plane.kubectl("apply", "-f", "examples/sandbox.yaml")
        cluster.agents[1].kill()

Needs root. Whatever happens inside, the machine is as before when it ends; only SIGKILL of the whole session leaves keepers and sandboxes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Self

import skerry
from tests.harness import identities, images
from tests.harness.agents import Agent, make_place, python_environment, wait_for
from tests.harness.controlplane import ControlPlane
from tests.harness.gateways import Gateway
from tests.harness.processes import Process, tail

SYSTEM_NAMESPACE = "skerry-system"


class Cluster:
    """One control plane, one operator, several agents. Each part can be killed and started by itself."""

    def __init__(
        self, directory: str, plane: ControlPlane, *, keys: identities.Keys, agents: Sequence[Agent], operator_flags: Sequence[str],
        gateway_flags: Sequence[str],
    ) -> None:  # fmt: skip
        self.directory = directory
        self.plane = plane
        self.agents = tuple(agents)
        self._keys = keys
        self._operator_flags = tuple(operator_flags)
        self._operator: Process | None = None
        self.gateway = Gateway(plane, directory, namespace=SYSTEM_NAMESPACE, kubeconfig=keys.gateway, flags=gateway_flags)
        self.operator_log_path = os.path.join(directory, "operator.log")

    @classmethod
    def start(
        cls, directory: str, *, agents: int = 1, tag: str = "node", agent_flags: Sequence[str] = (), operator_flags: Sequence[str] = (),
        gateway_flags: Sequence[str] = (), fsync: bool = False, say: Callable[[str], None] = lambda _: None,
    ) -> Cluster:  # fmt: skip
        """Start everything, with a busybox image on each node, and wait until every node is registered.

        Nodes are called *tag* and their number. *say* hears of progress. Raises ProcessFailed, AssetsFailed.
        """
        say("starting etcd and kube-apiserver")
        plane = ControlPlane.start(os.path.join(directory, "plane"), fsync=fsync)
        places = [make_place(n, directory, tag=tag, count=agents, flags=agent_flags) for n in range(agents)]
        try:
            keys = identities.establish(plane, namespace=SYSTEM_NAMESPACE, nodes=[place.node_name for place in places])
        except BaseException:
            plane.stop()
            raise
        nodes = [
            Agent(place, kubeconfig=keys.agents[place.node_name], log_path=os.path.join(directory, f"agent-{place.node_name}.log"))
            for place in places
        ]
        cluster = cls(directory, plane, keys=keys, agents=nodes, operator_flags=operator_flags, gateway_flags=gateway_flags)
        try:
            cluster._fill(say)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End all of it and purge every node. What fails to be purged is raised at the end, after the rest."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.plane.stop)
            for agent in self.agents:
                stack.callback(agent.purge)
            for agent in self.agents:
                stack.callback(agent.stop)
            stack.callback(self.gateway.stop)
            stack.callback(self.stop_operator)

    def start_operator(self) -> None:
        """Start the operator; returns at once."""
        flags = [f"--kubeconfig={self._keys.operator}", f"--system-namespace={SYSTEM_NAMESPACE}", "--identity=operator", *self._operator_flags]
        self._operator = Process(
            [sys.executable, "-m", "skerry_operator", *flags],
            log_path=self.operator_log_path, env=python_environment(),
        )  # fmt: skip

    @property
    def operator_pid(self) -> int | None:
        """The operator's pid; None while none runs."""
        return self._operator.pid if self._operator is not None and self._operator.is_running else None

    def kill_operator(self) -> None:
        """End the operator with SIGKILL."""
        if self._operator is not None:
            self._operator.kill()

    def stop_operator(self) -> None:
        """End the operator with SIGTERM."""
        if self._operator is not None:
            self._operator.stop()

    def restart_operator(self) -> None:
        """Kill the operator and start it."""
        self.kill_operator()
        self.start_operator()

    def wait_nodes(self) -> None:
        """Wait until each agent listens and its SandboxNode is there. Raises ProcessFailed."""
        for agent in self.agents:
            agent.wait_ready()
            what = f"node {agent.name} registered, with its door for streams (see {agent.log_path})"
            wait_for(None, what, lambda name=agent.name: self._has_door(name))  # type: ignore[misc]

    def _fill(self, say: Callable[[str], None]) -> None:
        say("applying crds/")
        self.plane.apply_crds()
        say(f"starting the operator, the gateway and {len(self.agents)} agent(s)")
        self.start_operator()
        self.gateway.start()
        for agent in self.agents:
            agent.start()
        self.wait_nodes()
        self.gateway.wait_ready()
        say(f"importing {images.REFERENCE}")
        layout = images.busybox_layout(os.path.join(self.directory, "busybox"))
        for agent in self.agents:
            skerry.Client(agent.socket_path).import_image(layout)

    def _has_door(self, name: str) -> bool:
        try:
            found = json.loads(self.plane.read(f"/apis/skerry.dev/v1alpha1/sandboxnodes/{name}"))
            return bool((found.get("status") or {}).get("port"))
        except urllib.error.HTTPError:
            return False


def main() -> None:
    """Run a cluster of one node in the foreground until Ctrl-C or TERM."""
    if os.geteuid() != 0:
        sys.exit("make cluster needs root: its agent makes namespaces, mounts and a bridge; run it with sudo")
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:5.1f} s] {text}", flush=True)

    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="skerry-cluster-") as directory:
        _handle_signals(_interrupt)
        try:
            with Cluster.start(directory, tag="demo", say=say) as cluster:
                _handle_signals(lambda *_: stop.set())
                say(f"ready; logs are in {directory}. In another terminal:\n")
                print("\n".join(_render_lines(cluster)) + "\n\nCtrl-C ends it and leaves nothing.", flush=True)
                _stay(cluster, stop)
                say("ending: sandboxes, operator, agent, control plane")
        except KeyboardInterrupt:
            say("interrupted")
    say("nothing is left")


def _render_lines(cluster: Cluster) -> list[str]:
    """What to paste in another terminal."""
    values = {"KUBECONFIG": cluster.plane.kubeconfig}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
    return [
        f"  export {exports} PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH",
        "  kubectl apply -f examples/sandbox.yaml && kubectl get sbx -o wide --watch",
        f"  skerry run --rm {images.REFERENCE} echo hello",
        f"  skerry --socket {shlex.quote(cluster.agents[0].socket_path)} info    # the agent itself",
    ]


def _stay(cluster: Cluster, stop: threading.Event) -> None:
    """Wait for *stop*; start again what dies, later each time, as Kubernetes would."""
    pause_seconds = 1.0
    while not stop.wait(pause_seconds):
        dead = [agent for agent in cluster.agents if agent.pid is None]
        for agent in dead:
            print(f"agent {agent.name} ended; starting it again. It said:\n{tail(agent.log_path, 1)}", flush=True)
            agent.start()
        is_operator_dead = cluster.operator_pid is None
        if is_operator_dead:
            print(f"the operator ended; starting it again. It said:\n{tail(cluster.operator_log_path, 1)}", flush=True)
            cluster.start_operator()
        is_gateway_dead = cluster.gateway.pid is None
        if is_gateway_dead:
            print(f"the gateway ended; starting it again. It said:\n{tail(cluster.gateway.log_path, 1)}", flush=True)
            cluster.gateway.start()
        pause_seconds = min(30.0, pause_seconds * 2) if dead or is_operator_dead or is_gateway_dead else 1.0


def _handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
