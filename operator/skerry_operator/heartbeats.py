"""Which nodes fell silent. Pure: readings of their Leases come in with the time of reading.

Clocks of nodes are not trusted: what counts is for how long *we* have seen a Lease not change, as Kubernetes' own node controller does.
Time in which we could not read, and a restart, are never held against a node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Heartbeats:
    """What was read; *lost_seconds* of silence make a node lost."""

    lost_seconds: float
    _readings: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Node name -> the renewal last read, and the reading at which it was new."""
    _heard: set[str] = field(default_factory=set)
    _read_at: float | None = None

    def observe(self, renewals: Mapping[str, str], now: float) -> None:
        """Take in a complete reading: node name -> renewTime. A node without a Lease is as silent as one whose Lease stands still."""
        blind = now - self._read_at if self._read_at is not None else 0.0
        excused = blind if blind > self.lost_seconds / 2 else 0.0
        self._read_at = now
        for name in renewals.keys() | self._readings.keys():
            known, since = self._readings.get(name, ("", now))
            renewal = renewals.get(name, known)
            if renewal == known:
                self._readings[name] = (renewal, since + excused)
                continue
            if known:
                self._heard.add(name)
            self._readings[name] = (renewal, now)

    def expect(self, name: str, now: float) -> None:
        """A node of this name should be heard from now on."""
        self._readings.setdefault(name, ("", now))

    def retain(self, names: Collection[str]) -> None:
        """Only these matter: registered, or with sandboxes."""
        for name in self._readings.keys() - set(names):
            del self._readings[name]
            self._heard.discard(name)

    def is_heard(self, name: str) -> bool:
        """Whether a renewal was seen to happen: a Lease that merely exists may be an old one."""
        return name in self._heard and not self.is_lost(name)

    def is_lost(self, name: str) -> bool:
        """Whether *name* was silent for too long at the last reading. A node never heard of has its time first."""
        reading = self._readings.get(name)
        return reading is not None and self._read_at is not None and self._read_at - reading[1] >= self.lost_seconds
