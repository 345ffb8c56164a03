"""What serving needs from the agent: a small protocol, and its values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from skerry_api.sandbox import DesiredState, Sandbox
from skerry_node.keeper import wire
from skerry_node.serving.exec_options import ExecOptions
from skerry_node.serving.refusal import Refused
from skerry_node.sessions.consoles import Consoles
from skerry_node.sessions.table import Sessions

__all__ = ["Backend", "Image", "Info", "Refused"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the node's store; one that several references name is several of these."""

    reference: str
    digest: str
    size_bytes: int
    """Of its layers on this node's disk, shared ones counted in every image."""
    layers: int
    created: str = ""


@dataclass(frozen=True, slots=True)
class Info:
    """The agent about itself."""

    version: str
    node_name: str
    is_standalone: bool
    """Whether sandboxes are made here; in a cluster that is the API server's."""
    details: Mapping[str, Any]
    """More for people: kernel, features, directories, counts; plain data."""


class Backend(Protocol):
    """The agent as serving sees it. Raises Refused, or the errors of skerry_node.standalone, or InvalidManifest."""

    def info(self) -> Info:
        """The agent about itself."""
        ...

    async def await_list(self) -> None:
        """Return once the agent knows its sandboxes: one that it has just been started may not yet. Raises Refused when that takes too long."""
        ...

    def list(self) -> tuple[Sandbox, ...]:
        """Every sandbox of this node, with its status as last reported."""
        ...

    def find(self, namespace: str, name: str) -> Sandbox | None:
        """One sandbox by name."""
        ...

    async def inspect(self, sandbox: Sandbox) -> Mapping[str, Any]:
        """What the node knows beyond the object: layers, directories, pids, limits, lease, events; plain data."""
        ...

    async def create(self, raw: Mapping[str, Any]) -> Sandbox:
        """A new sandbox from a manifest (standalone only)."""
        ...

    async def set_desired_state(self, sandbox: Sandbox, *, state: DesiredState, grace_seconds: int | None = None) -> Sandbox:
        """Write spec.desiredState, and the grace period when given (standalone only)."""
        ...

    async def delete(self, sandbox: Sandbox) -> None:
        """Ask for the sandbox's deletion; returns before it is gone (standalone only)."""
        ...

    async def import_image(self, path: str, *, reference: str | None) -> tuple[Image, ...]:
        """Put an OCI layout or a docker-archive that is on this machine into the store; all its images when *reference* names none."""
        ...

    def pull_image(self, reference: str, *, docker_config: bytes | None) -> AsyncGenerator[Mapping[str, Any] | Image]:
        """Fetch *reference* from its registry: how far it is, again and again, and at last the image."""
        ...

    def images(self) -> tuple[Image, ...]:
        """What the store holds."""
        ...

    async def remove_image(self, reference: str) -> None:
        """Take the reference out of the store."""
        ...

    def stats(self, sandbox: Sandbox) -> Mapping[str, Any] | None:
        """What the kernel counted for it up to now; plain data. None when it does not run."""
        ...

    def log_directory(self, sandbox: Sandbox) -> str:
        """Where the sandbox's output is; it need not exist yet."""
        ...

    @property
    def sessions(self) -> Sessions:
        """The execs of this node."""
        ...

    @property
    def consoles(self) -> Consoles:
        """What is typed to first processes."""
        ...

    async def order_exec(self, sandbox: Sandbox, options: ExecOptions) -> wire.Entry:
        """The keeper's order for an exec in *sandbox*. Raises Refused while nothing runs there."""
        ...

    def processes(self, sandbox: Sandbox) -> Sequence[Mapping[str, Any]]:
        """The processes in *sandbox*, plain data. Raises Refused while nothing runs there."""
        ...

    def order_task(self, sandbox: Sandbox, task: str, arguments: tuple[str, ...], *, user: str = "") -> wire.Entry:
        """The keeper's order for a task of ours in *sandbox*. Raises Refused while nothing runs there."""
        ...

    def visit(self, sandbox: Sandbox) -> AbstractContextManager[None]:
        """Somebody is with *sandbox* for the time of a block: it wakes, and does not sleep."""
        ...

    async def signal(self, sandbox: Sandbox, number: int) -> None:
        """Send a signal to the first process of *sandbox*. Raises Refused."""
        ...
