"""One line of a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Raw samples of one thing measured on one system."""

    system: str
    what: str
    unit: str
    samples: list[float]
