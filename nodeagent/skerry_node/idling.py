"""When a sandbox counts as idle: what it used between two looks against a trickle. Pure; readings come in with their time.

One table for all sandboxes that have `ttl.idleSeconds`, filled by one pass; nothing here belongs to the kernel or a timer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

CPU_SHARE = 0.01
"""Of one CPU: what an interpreter that waits in its event loop may use and still count as idle."""
BYTES_PER_SECOND = 200
"""Over its link, both ways together: the neighbours' ARP and the kernel's own chatter; less than one TCP connection."""
VERSION = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel has counted since the start: seconds of CPU, bytes over the link both ways."""

    cpu_seconds: float = 0.0
    moved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """The last reading of start number *attempt*, when it was made, and when the sandbox was last seen active; seconds since boot."""

    attempt: int
    reading: Reading
    read_at_seconds: float
    active_at_seconds: float


def is_active(before: Reading, now: Reading, *, seconds: float) -> bool:
    """Whether more than a trickle was used in the *seconds* between two readings. Counters that went back began anew, and count in full."""
    cpu = now.cpu_seconds - before.cpu_seconds if now.cpu_seconds >= before.cpu_seconds else now.cpu_seconds
    moved = now.moved_bytes - before.moved_bytes if now.moved_bytes >= before.moved_bytes else now.moved_bytes
    return cpu > CPU_SHARE * seconds or moved > BYTES_PER_SECOND * max(seconds, 1.0)


@dataclass(slots=True)
class Table:
    """What was seen of each sandbox that can become idle."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def take(self, uid: str, attempt: int, reading: Reading, *, now: float, started: float, is_busy: bool) -> bool:
        """Take in a look at *uid*, whose program runs since *started*; whether it was active since the last one.

        *is_busy*: somebody is with it, or its time does not count now.
        """
        known = self.entries.get(uid)
        if known is None or known.attempt != attempt:
            self.entries[uid] = Entry(attempt, reading, now, now if is_busy else started)
            return is_busy
        was_active = is_busy or is_active(known.reading, reading, seconds=now - known.read_at_seconds)
        self.entries[uid] = Entry(attempt, reading, now, now if was_active else known.active_at_seconds)
        return was_active

    def note(self, uid: str, *, now: float) -> None:
        """Something happens with *uid* at this moment."""
        known = self.entries.get(uid)
        if known is not None:
            self.entries[uid] = Entry(known.attempt, known.reading, known.read_at_seconds, now)

    def active_at(self, uid: str, attempt: int) -> float | None:
        """When start *attempt* of *uid* was last seen active, None before the first look."""
        known = self.entries.get(uid)
        return known.active_at_seconds if known is not None and known.attempt == attempt else None

    def retain(self, uids: Collection[str]) -> None:
        """Only these matter."""
        for uid in self.entries.keys() - set(uids):
            del self.entries[uid]


def render(table: Table, *, boot_id: str) -> dict[str, Any]:
    """For the next agent of this boot."""
    rows = {
        uid: [each.attempt, each.reading.cpu_seconds, each.reading.moved_bytes, each.read_at_seconds, each.active_at_seconds]
        for uid, each in table.entries.items()
    }
    return {"version": VERSION, "boot_id": boot_id, "sandboxes": rows}


def parse(raw: Mapping[str, Any], *, boot_id: str) -> Table:
    """What an earlier agent saw; nothing when it was another boot, or another version's word."""
    if raw.get("version") != VERSION or raw.get("boot_id") != boot_id:
        return Table()
    return Table({uid: Entry(row[0], Reading(row[1], row[2]), row[3], row[4]) for uid, row in raw["sandboxes"].items()})
