"""How far a pull is, as a value that statuses, events and progress bars read. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """One layer: bytes as the registry holds it. *is_done*: converted and proved, or here before."""

    digest: str
    size_bytes: int
    received_bytes: int = 0
    is_done: bool = False
    was_here: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """All of one pull. No layers: the manifest is still on its way."""

    reference: str
    layers: tuple[LayerProgress, ...] = ()

    @property
    def total_bytes(self) -> int:
        """What has to be moved."""
        return sum(layer.size_bytes for layer in self.layers if not layer.was_here)

    @property
    def received_bytes(self) -> int:
        """What has come."""
        return sum(layer.received_bytes for layer in self.layers if not layer.was_here)

    def describe(self) -> str:
        """One line for people."""
        if not self.layers:
            return f"asking for {self.reference}"
        done = sum(layer.is_done for layer in self.layers)
        return f"{render_bytes(self.received_bytes)} of {render_bytes(self.total_bytes)}, {done} of {len(self.layers)} layers done"

    def render(self) -> dict[str, Any]:
        """As JSON has it."""
        layers = [
            {
                "digest": each.digest,
                "sizeBytes": each.size_bytes,
                "receivedBytes": each.received_bytes,
                "isDone": each.is_done,
                "wasHere": each.was_here,
            }
            for each in self.layers
        ]
        return {"reference": self.reference, "receivedBytes": self.received_bytes, "totalBytes": self.total_bytes, "layers": layers}


@dataclass(slots=True)
class _Layer:
    size_bytes: int
    received_bytes: int = 0
    is_done: bool = False
    was_here: bool = False


@dataclass(slots=True)
class Meter:
    """Counts while a pull goes on; `read` gives the value."""

    reference: str
    _layers: dict[str, _Layer] = field(default_factory=dict)

    def expect(self, sizes: Iterable[tuple[str, int]]) -> None:
        """The manifest is here: its layers by digest."""
        self._layers = {digest: _Layer(size) for digest, size in sizes}

    def received(self, digest: str, count: int) -> None:
        """So many more bytes came."""
        self._layers[digest].received_bytes += count

    def restarted(self, digest: str) -> None:
        """It comes again from its beginning."""
        self._layers[digest].received_bytes = 0

    def done(self, digest: str, *, was_here: bool = False) -> None:
        """It is converted and proved, or was here before, or another pull has brought it."""
        layer = self._layers[digest]
        layer.is_done, layer.was_here = True, was_here
        layer.received_bytes = 0 if was_here else layer.size_bytes

    def read(self) -> Progress:
        """How far it is now."""
        layers = (LayerProgress(digest, each.size_bytes, each.received_bytes, each.is_done, each.was_here) for digest, each in self._layers.items())
        return Progress(self.reference, tuple(layers))


def render_bytes(count: int) -> str:
    """*count* for people: 27.1 MB."""
    value, units = float(count), iter(_UNITS)
    unit = next(units)
    while value >= 1000 and unit != _UNITS[-1]:
        value, unit = value / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
