"""What may be reaped, and what is held back because the list that lacks it looks wrong. Pure; law 7 of the design."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

SUSPICIOUS_COUNT, SUSPICIOUS_SHARE = 3, 0.5
"""A list that lacks more than 3 sandboxes and more than half of those we know is taken for the API server's mistake at first."""
CONFIRM_SECONDS = 60.0


@dataclass(slots=True)
class Watch:
    """Remembers whether a complete list has been seen, and which uids are held since when (monotonic seconds)."""

    has_complete_list: bool = False
    _held: dict[str, float] = field(default_factory=dict)

    def hold(self, missing: AbstractSet[str], *, known: int, now: float) -> frozenset[str]:
        """Those of *missing* that must not be acted on yet; a second list that lacks them confirms it."""
        self.has_complete_list = True
        confirmed = {uid for uid in missing if uid in self._held}
        fresh = set(missing) - confirmed
        if len(fresh) > SUSPICIOUS_COUNT and len(fresh) > SUSPICIOUS_SHARE * known:
            self._held = {**dict.fromkeys(fresh, now)}
            return frozenset(fresh)
        self._held = {}
        return frozenset()

    def release(self, *, now: float) -> frozenset[str]:
        """Uids that were held for CONFIRM_SECONDS without being seen again."""
        due = frozenset(uid for uid, since in self._held.items() if now - since >= CONFIRM_SECONDS)
        for uid in due:
            del self._held[uid]
        return due
