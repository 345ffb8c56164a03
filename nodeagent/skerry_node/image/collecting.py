"""Which images go when the disk is nearly full: the longest unused first, down to the low mark, never one that is in use or young. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from skerry_node.image.record import Image


@dataclass(frozen=True, slots=True)
class Limits:
    """Marks in percent of the store's filesystem: above *high*, images go until *low*. None that was used within *minimum_age_seconds* goes."""

    high_percent: int = 85
    low_percent: int = 80
    minimum_age_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Disk:
    """What the store's filesystem says of itself."""

    total_bytes: int
    free_bytes: int

    @property
    def used_percent(self) -> float:
        """Of what an ordinary process could use."""
        return 100.0 * (self.total_bytes - self.free_bytes) / self.total_bytes if self.total_bytes else 0.0


def choose(images: Iterable[Image], disk: Disk, limits: Limits, *, idle_seconds: dict[str, float], in_use: Collection[str]) -> tuple[str, ...]:
    """References to remove, in order. *idle_seconds* is by reference; *in_use* holds manifest digests and references."""
    if disk.used_percent <= limits.high_percent:
        return ()
    wanted = disk.total_bytes * (100 - limits.low_percent) // 100 - disk.free_bytes
    kept = list(images)
    users = Counter(path for image in kept for path in {layer.path for layer in image.layers})
    candidates = [
        image for image in kept
        if image.reference not in in_use and image.digest not in in_use and idle_seconds.get(image.reference, 0.0) >= limits.minimum_age_seconds
    ]  # fmt: skip
    gone: list[str] = []
    for image in sorted(candidates, key=lambda image: (-idle_seconds[image.reference], image.reference)):
        if wanted <= 0:
            break
        gone.append(image.reference)
        for path, size in {layer.path: layer.size_bytes for layer in image.layers}.items():
            users[path] -= 1
            if not users[path]:
                wanted -= size
    return tuple(gone)
