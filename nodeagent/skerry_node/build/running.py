"""What a build needs from the agent for RUN: one program in a sandbox, and what it wrote. The agent's end is `skerry_node.building`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from skerry_node.image.record import Image

Output = Callable[[str, bytes], Awaitable[None]]
"""Takes `stdout` or `stderr`, and a piece of what was written there."""


@dataclass(frozen=True, slots=True)
class Order:
    """One RUN. *image* has the layers so far, and the config that says user, directory and ENV; *env* comes on top, for this program only."""

    image: Image
    argv: tuple[str, ...]
    env: tuple[str, ...]
    has_network: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """How it ended: *exit_code* as a shell says it, *reason* where it was killed.

    *upper_fd* is the writable layer, whose owners are host ids from *id_base* on.
    """

    exit_code: int
    reason: str
    upper_fd: int
    id_base: int


class Runner(Protocol):
    """Runs programs of builds."""

    def run(self, order: Order, output: Output) -> AbstractAsyncContextManager[Finished]:
        """Run *order* to its end. Its sandbox is there until the context ends, and gone after it. Raises BuildError where it cannot be started."""
        ...
