"""What a scrape reads: every sandbox of this node from the kernel, and the state of the agent. In a thread; the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import resource
import time
from collections.abc import Callable, Collection, Iterator

from skerry_api.metric import Metric
from skerry_node import inventory, metrics
from skerry_node.cgroup import scanning
from skerry_node.image.store import Store
from skerry_node.loop import Loop
from skerry_node.metering import catalogue, series
from skerry_node.model import Running
from skerry_node.network import traffic
from skerry_node.rootfs import surveying

SURVEY_SECONDS, _SURVEY_PAUSE_SECONDS = 30.0, 2.0
_SURVEY_SHARE = 0.02
"""Of one core, that looking at the disk usage of sandboxes may take."""
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_RUN, _BREATH_SECONDS = 20, 20e-6
"""After so many sandboxes (half a millisecond) a scrape lets go of the interpreter, so that a launch waits no longer than that for it."""


class Gauges:
    """Reads for `metrics.Meters`, whose lock holds it to one thread at a time. Directories and a socket stay open; `close` it."""

    def __init__(self, loop: Loop, store: Store, *, watch_age: Callable[[], float] | None) -> None:
        self._loop = loop
        self._store = store
        self._watch_age = watch_age
        self._scanner = scanning.Scanner(loop.hands.view.groups, keep=_count_files())
        self._refusals = loop.hands.view.refusals.reopen()
        self._disk: dict[str, int] = {}
        self.certificate_ends: dict[str, float] = {}
        """When each certificate ends, seconds since 1970."""

    def close(self) -> None:
        """Let go of what is open; no scrape may be under way."""
        self._scanner.close()
        self._refusals.close()

    def disk_bytes(self, uid: str) -> int | None:
        """What the last look found in the writable layer of *uid*; None before the first."""
        return self._disk.get(uid)

    def read_samples(self) -> Iterator[series.Sample]:
        """Every sandbox of this node. One that ends meanwhile has no counters, one that went is left out."""
        loop, leases = self._loop, self._loop.hands.view.leases
        outcomes = [(uid, outcome, sandbox) for uid, outcome in list(loop.outcomes.items()) if (sandbox := loop.wanted.get(uid)) is not None]
        living = {uid: outcome.observed.slot for uid, outcome, _ in outcomes if isinstance(outcome.observed.process, Running)}
        links = {uid: leases.veth_name(slot) for uid, slot in living.items() if slot is not None}
        self._scanner.forget_others(living.keys())
        denied = self._read_denied([slot for slot in living.values() if slot is not None]) if links else {}
        moved = traffic.read_all() if links else {}
        for number, (uid, outcome, sandbox) in enumerate(outcomes):
            if number % _RUN == _RUN - 1:
                time.sleep(_BREATH_SECONDS)
            status = outcome.status or sandbox.status
            yield series.Sample(
                sandbox=sandbox,
                node=loop.hands.settings.node_name,
                life=outcome.observed.life,
                phase=status.phase.value,
                counted=self._scanner.read(uid) if uid in living else None,
                traffic=moved.get(links.get(uid, "")),
                denied=denied.get(slot) if uid in links and (slot := living[uid]) is not None else None,
                disk_bytes=self._disk.get(uid),
            )

    def _read_denied(self, slots: Collection[int]) -> dict[int, int]:
        """Refused packets by slot; empty while the rules are being made again."""
        with contextlib.suppress(OSError):
            return self._refusals.read(slots)
        return {}

    def read_gauges(self) -> metrics.Readings:
        """The agent's state."""
        hands, store = self._loop.hands, self._store
        found: dict[Metric, dict[tuple[str, ...], float]] = {
            catalogue.INFO: {(inventory.VERSION, platform.release(), f"v{hands.view.groups.hierarchies.version}"): 1},
            catalogue.SHELLS: {(): len(hands.shells)},
            catalogue.SHELLS_WANTED: {(): hands.settings.shells},
            catalogue.KEEPER_CONNECTED: {(): int(hands.keeper.is_connected)},
            catalogue.IMAGES: {(): len(store.images)},
            catalogue.IMAGES_BROKEN: {(): len(store.broken)},
            catalogue.IMAGE_BYTES: {(): store.used_bytes},
            catalogue.DISK_SIZE: {},
            catalogue.DISK_AVAILABLE: {},
            catalogue.CERTIFICATES: {(name,): ends for name, ends in self.certificate_ends.items()},
        }
        for name, path in (("images", store.layers_dir), ("scratch", hands.settings.scratch_dir)):
            info = os.statvfs(path)
            found[catalogue.DISK_SIZE][name,] = (info.f_blocks - info.f_bfree + info.f_bavail) * info.f_frsize
            found[catalogue.DISK_AVAILABLE][name,] = info.f_bavail * info.f_frsize
        if self._watch_age is not None:
            found[catalogue.WATCH_AGE] = {(): self._watch_age()}
        if (pid := hands.keeper.pid) is not None:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
                found[catalogue.KEEPER_MEMORY] = {(): int(file.read().split()[1]) * _PAGE_BYTES}
        return found | self._read_room()

    async def survey(self) -> None:
        """Look at the disk usage of each sandbox, soon after its start and then each half minute, in small pieces."""
        fd, looked = self._loop.hands.view.scratch_fd, dict[str, float]()
        while True:
            for uid in self._loop.wanted.keys() - {uid for uid, at in looked.items() if time.monotonic() - at < SURVEY_SECONDS}:
                began = looked[uid] = time.monotonic()
                with contextlib.suppress(OSError):  # it goes, or its disk fails: then nothing is known of it
                    used = await asyncio.to_thread(surveying.measure, fd, uid)
                    if used is not None:
                        self._disk[uid] = used
                await asyncio.sleep((time.monotonic() - began) / _SURVEY_SHARE)
            for uid in looked.keys() - self._loop.wanted.keys():
                del looked[uid]
                self._disk.pop(uid, None)
            await asyncio.sleep(_SURVEY_PAUSE_SECONDS)

    def _read_room(self) -> dict[Metric, dict[tuple[str, ...], float]]:
        hands = self._loop.hands
        status = inventory.describe(
            hands.settings, list(self._loop.wanted.values()), (), cgroup_version=hands.view.groups.hierarchies.version, endpoint=None, now=""
        ).status
        pairs = ((catalogue.ALLOCATABLE, status.allocatable), (catalogue.ALLOCATED, status.allocated))
        return {
            metric: {("cpu",): each.cpu_millicores / 1000, ("memory",): each.memory_bytes, ("sandboxes",): each.sandboxes} for metric, each in pairs
        }


def _count_files() -> int:
    """How many files a scrape may keep open: half of what this process may have, so that everything else has its room."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft // 2
