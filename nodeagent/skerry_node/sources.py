"""Where an agent's wants come from: the API server, or a directory of manifests. The protocol only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from skerry_api.node import SandboxNode
from skerry_api.sandbox import Sandbox, SandboxStatus
from skerry_api.volumes import ObjectKind


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete list: what is not in it does not exist."""

    sandboxes: tuple[Sandbox, ...]


@dataclass(frozen=True, slots=True)
class Upsert:
    """A sandbox that is new or changed; its metadata may carry a deletion timestamp."""

    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Gone:
    """A sandbox object that no longer exists."""

    uid: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that cannot be parsed although the schema let it through; the problem names the field."""

    namespace: str
    name: str
    uid: str
    problem: str


Change = Snapshot | Upsert | Gone | Invalid


class Source(Protocol):
    """Wants in, status out. Every call is safe to repeat; writers raise `errors.SourceUnavailable` when they should be tried again."""

    expires_objects: bool
    """Whether the agent itself deletes finished objects (standalone); in a cluster the operator does."""

    def watch(self) -> AsyncIterator[Change]:
        """First a Snapshot, then changes for ever; a new Snapshot after each relist. Reconnects by itself."""
        ...

    async def write_status(self, sandbox: Sandbox, *, status: SandboxStatus) -> None:
        """Put *status* on the object; a vanished object is success."""
        ...

    async def remove_finalizer(self, sandbox: Sandbox) -> None:
        """Let a deleted object go; a vanished object is success."""
        ...

    async def delete(self, sandbox: Sandbox) -> None:
        """Ask for the object's deletion."""
        ...

    def post_event(self, sandbox: Sandbox, *, reason: str, message: str, warning: bool = False) -> None:
        """Queue an Event for people; never blocks, never raises, may be dropped under pressure."""
        ...

    async def read_pull_secret(self, namespace: str, name: str) -> bytes | None:
        """The Docker config in a Secret of type kubernetes.io/dockerconfigjson; None when there is no such Secret. It stays in memory."""

    async def read_entries(self, kind: ObjectKind, *, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The entries of a ConfigMap or Secret; None when there is no such object. Raises errors.SourceUnavailable."""
        ...

    async def write_node(self, node: SandboxNode) -> None:
        """Create or update this node's SandboxNode, when something in it changed."""
        ...

    async def renew_lease(self) -> None:
        """Renew the node's heartbeat."""
        ...

    async def close(self) -> None:
        """Stop watching and free what is held."""
        ...


def uids(sandboxes: Sequence[Sandbox]) -> frozenset[str]:
    """The identities in a list."""
    return frozenset(sandbox.metadata.uid for sandbox in sandboxes)
