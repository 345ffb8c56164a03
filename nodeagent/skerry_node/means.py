"""What steps work with, and the case that they work on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from skerry_api.sandbox import NetworkMode, Sandbox
from skerry_node import handles, idling, imaging, lives, observe, variables
from skerry_node.image import integrity
from skerry_node.image.store import Image
from skerry_node.keeper import client
from skerry_node.model import Life, Observed
from skerry_node.settings import Settings
from skerry_node.sources import Source

Layers = tuple[str, ...]
"""Names of layers, lowest first."""


class Meters(Protocol):
    """Who counts what steps take."""

    def step_done(self, name: str, seconds: float) -> None:
        """A step took so long, whatever it came to."""

    def started(self, launch_type: str, *, prepare: float, request: float, keeper: float) -> None:
        """A program runs, after so many seconds in each stage."""


@dataclass(slots=True)
class Hands:
    """What steps work with.

    `shells` are those that wait, by slot, with the layers of the root they have on; `spent` are slots whose root was not wanted, so that its
    writable layer is to be removed; `dressed` are uids that took a shell with its root; `favourite` are the layers of the last start.
    """

    settings: Settings
    view: observe.View
    keeper: client.Client
    source: Source
    bridge_index: int
    images: imaging.Imaging
    handles: handles.Handles
    shells: dict[int, Layers | None] = field(default_factory=dict)
    spent: list[int] = field(default_factory=list)
    dressed: set[str] = field(default_factory=set)
    favourite: Layers | None = None
    checks: integrity.Checks | None = None
    meters: Meters | None = None
    environments: variables.Environments = field(default_factory=variables.Environments)
    idle: idling.Table = field(default_factory=idling.Table)
    before_sleep: Callable[[str], Awaitable[None]] | None = None
    """What is to be done before the sandbox of a uid is put to sleep."""


@dataclass(slots=True)
class Case:
    """One sandbox under reconcile: the object (None: an orphan), what is seen, the image when it is known."""

    uid: str
    sandbox: Sandbox | None
    observed: Observed
    image: Image | None
    began: float

    @property
    def name(self) -> str:
        """Namespace and name, for people."""
        return f"{self.sandbox.metadata.namespace}/{self.sandbox.metadata.name}" if self.sandbox is not None else ""


def shell_name(slot: int) -> str:
    """What a shell is called as the owner of its lease and of its writable layer."""
    return f"shell-{slot}"


def find_owner(hands: Hands, uid: str) -> int:
    """The host's id of the sandbox's root."""
    lease = hands.view.leases.find(uid)
    if lease is None:
        raise FileNotFoundError(f"the lease of {uid} vanished")
    return hands.view.leases.id_range(lease.slot)[0]


def find_facts(hands: Hands, sandbox: Sandbox) -> variables.Facts:
    """What this node says of *sandbox* to its variables."""
    lease = hands.view.leases.find(sandbox.metadata.uid)
    has_address = lease is not None and sandbox.spec.network.mode is NetworkMode.BRIDGE
    address = str(hands.view.leases.address(lease.slot)) if lease is not None and has_address else ""
    return variables.Facts(node_name=hands.settings.node_name, address=address)


def write_life(hands: Hands, case: Case, life: Life) -> None:
    """Remember *life* of the sandbox."""
    lives.write(hands.view.runtime_fd, case.uid, life, name=case.name)
