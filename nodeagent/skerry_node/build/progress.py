"""What a build says as it goes: plain values, one after the other, for whoever watches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Started:
    """An instruction begins: number *step* of *steps* in all stages, of *stage*, by name or number."""

    step: int
    steps: int
    line: int
    text: str
    stage: str


@dataclass(frozen=True, slots=True)
class Cached:
    """The instruction that began was done before."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The instruction that began made a layer, of this size in the store."""

    diff_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Said:
    """Output of a RUN."""

    stream: str
    data: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that a person should know."""

    message: str


Event = Started | Cached | Sealed | Said | Warned
Emit = Callable[[Event], Awaitable[None]]


def render(event: Event) -> dict[str, Any]:
    """*event* as JSON, its kind under `event`."""
    names = {"size_bytes": "sizeBytes", "diff_id": "diffID"}
    return {"event": type(event).__name__.lower(), **{names.get(key, key): value for key, value in asdict(event).items()}}
