"""How long restarts of a program that keeps ending are held back. Pure; the kubelet's rule (CrashLoopBackOff)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The first restart is at once; the next is held back *first_seconds*, then twice as long each time, up to *max_seconds*.

    A run of *reset_seconds* forgives all that was before.
    """

    first_seconds: float = 10.0
    max_seconds: float = 300.0
    reset_seconds: float = 600.0

    def count(self, crashes: int, *, ran_seconds: float) -> int:
        """How many ends in a row are held against a program that had *crashes* of them and ended after *ran_seconds*."""
        return 0 if ran_seconds >= self.reset_seconds else crashes

    def held_seconds(self, crashes: int) -> float:
        """How long to wait before the restart after end number *crashes* (from 0) in a row."""
        if crashes == 0:
            return 0.0
        return min(self.first_seconds * 2.0 ** min(crashes - 1, 30), self.max_seconds)
