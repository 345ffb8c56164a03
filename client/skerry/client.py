"""The SDK: one class, synchronous, over an agent's socket.

from skerry import Client

client = Client()
client.create({"metadata": {"name": "hello"}, "spec": {"image": "busybox:latest", "command": ["echo", "hi"]}})
print(client.wait("hello").status.termination.exit_code)
for piece in client.logs("hello"):
    print(piece.stream, piece.data)
client.delete("hello")
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skerry import transport
from skerry.clustercalls import ClusterCalls
from skerry.execcalls import ExecCalls
from skerry.imagecalls import ImageCalls
from skerry.outputcalls import OutputCalls
from skerry.reachcalls import ReachCalls

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport
    from skerry.handles import SandboxHandle
    from skerry_api.sandbox import Sandbox


def connect(*, kubeconfig_path: str | None = None, context: str | None = None, namespace: str | None = None) -> Client:
    """Sandboxes of a cluster: of *kubeconfig_path*, else of KUBECONFIG, ~/.kube/config or the pod's own account. Raises BadKubeconfig.

    *namespace* is by default the context's.
    """
    from skerry import cluster, kubeconfig  # noqa: PLC0415 - for a socket they are not needed

    access = kubeconfig.load(kubeconfig_path, context=context)
    return Client(namespace=namespace or access.namespace, over=cluster.ClusterTransport(access))


class Client(OutputCalls, ExecCalls, ReachCalls, ImageCalls, ClusterCalls):
    """Sandboxes of one agent, or of a cluster. Safe to share between threads; every method raises SkerryError's subclasses.

    *socket_path* is the agent's, by default SKERRY_SOCKET or /run/skerry/agent.sock; for a cluster see `connect`.
    """

    def __init__(self, socket_path: str | None = None, *, namespace: str = "default", over: ClusterTransport | None = None) -> None:
        path = socket_path or os.environ.get("SKERRY_SOCKET") or transport.DEFAULT_SOCKET
        self.transport: transport.Transport | ClusterTransport = over or transport.Transport(path)
        self.namespace = namespace

    def version(self) -> str:
        """The agent's version."""
        return str(self.transport.request("GET", "/v1/version")["version"])

    def info(self) -> dict[str, Any]:
        """The agent about itself: version, nodeName, mode, details."""
        return dict(self.transport.request("GET", "/v1/info"))

    def create(self, manifest: Mapping[str, Any]) -> Sandbox:
        """A new sandbox; apiVersion, kind and namespace are filled in. Returns before it runs: see `wait`."""
        metadata = {"namespace": self.namespace, **manifest.get("metadata", {})}
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", **manifest, "metadata": metadata}
        return _parse(self.transport.request("POST", "/v1/sandboxes", body=body))

    def get(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """One sandbox with its status. Raises Refused with status 404."""
        return _parse(self.transport.request("GET", self._target(name, namespace)))

    def list(self, *, namespace: str | None = None) -> tuple[Sandbox, ...]:
        """Every sandbox, of one namespace when given."""
        items = self.transport.request("GET", "/v1/sandboxes", query={"namespace": namespace})["items"]
        return tuple(_parse(item) for item in items)

    def inspect(self, name: str, *, namespace: str | None = None) -> dict[str, Any]:
        """The object and, under `node`, what its node knows of it."""
        return dict(self.transport.request("GET", self._target(name, namespace) + "/inspect"))

    def wait(
        self,
        name: str,
        *,
        condition: str = "Finished",
        timeout_seconds: float | None = None,
        namespace: str | None = None,
    ) -> Sandbox | None:
        """The sandbox when it is Ready, Finished (a wait for Ready ends with this too) or Deleted, which gives None.

        A sandbox that cannot be started counts as Finished, without a termination. Raises Refused with status 408
        after *timeout_seconds*.
        """
        raw = self.transport.request(
            "GET",
            self._target(name, namespace) + "/wait",
            query={"for": condition, "timeout": timeout_seconds},
            timeout_seconds=None,
        )
        return _parse(raw) if raw else None

    def stop(self, name: str, *, grace_seconds: int | None = None, namespace: str | None = None) -> Sandbox:
        """Ask it to stop; its files stay. *grace_seconds* becomes its grace period. Returns at once: see `wait`."""
        body = {"desiredState": "Stopped", "terminationGracePeriodSeconds": grace_seconds}
        return _parse(self.transport.request("PATCH", self._target(name, namespace), body=body))

    def start(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """Ask it to run again, with its files. Returns at once: see `wait`."""
        body = {"desiredState": "Running"}
        return _parse(self.transport.request("PATCH", self._target(name, namespace), body=body))

    def pause(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """Ask it to be held still, memory and all; `start` lets it go on. Returns at once."""
        return _parse(self.transport.request("PATCH", self._target(name, namespace), body={"desiredState": "Paused"}))

    def delete(self, name: str, *, namespace: str | None = None) -> None:
        """Ask for its deletion. Returns at once: see `wait` with condition Deleted."""
        self.transport.request("DELETE", self._target(name, namespace))

    def sandbox(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        name: str | None = None,
        wait: bool = True,
        timeout_seconds: float = 120.0,
        **options: Any,
    ) -> SandboxHandle:
        """A new sandbox, running when *wait*; leave its `with` to remove it. Without *command* it waits for what `exec` brings.

        *options* are env, labels, cpu, memory, pids, and spec for any other field. Raises NotStarted, and nothing is left then.
        """
        from skerry import handles  # noqa: PLC0415 - `skerry --help` needs none

        made = name or f"sandbox-{secrets.token_hex(4)}"
        manifest = handles.render_manifest(image, command or handles.FOREVER, name=made, **options)
        metadata = self.create(manifest).metadata
        handle = handles.SandboxHandle(self, name=metadata.name, namespace=metadata.namespace)
        if wait:
            try:
                handle.wait_ready(timeout_seconds=timeout_seconds)
            except BaseException:
                handle.remove()
                raise
        return handle

    def handle(self, name: str, *, namespace: str | None = None) -> SandboxHandle:
        """The sandbox that has this name, whether it is there or not."""
        from skerry import handles  # noqa: PLC0415 - as above

        return handles.SandboxHandle(self, name=name, namespace=namespace or self.namespace)

    def _target(self, name: str, namespace: str | None) -> str:
        return f"/v1/sandboxes/{namespace or self.namespace}/{name}"


def _parse(raw: Mapping[str, Any]) -> Sandbox:
    # Imported here: `skerry --help` needs no resources.
    from skerry_api import sandbox  # noqa: PLC0415

    return sandbox.parse_sandbox(raw)
