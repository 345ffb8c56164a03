"""What the agent does to its images when nobody asks: makes room when the disk is nearly full, and looks for damage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence

from skerry_api.sandbox import Sandbox
from skerry_node import act, means
from skerry_node.image import collecting
from skerry_node.image.errors import ImageNotFound
from skerry_node.image.integrity import Checks
from skerry_node.image.record import Image, Layer
from skerry_node.image.store import Store
from skerry_node.keeper import client

PERIOD_SECONDS = 30.0
_LOG = logging.getLogger("skerry.images")


class Housekeeping:
    """*wanted* gives the sandboxes of this node, live or stopped, None while they are not known; *poke* has all of them looked at."""

    def __init__(
        self, hands: means.Hands, store: Store, limits: collecting.Limits, *,
        wanted: Callable[[], Sequence[Sandbox] | None], poke: Callable[[], None],
    ) -> None:  # fmt: skip
        self.checks = Checks(store, bytes_per_second=hands.settings.scrub_bytes_per_second, on_damage=self._on_damage)
        self._hands, self._store, self._limits = hands, store, limits
        self._wanted, self._poke = wanted, poke
        self._tasks: set[asyncio.Task[None]] = set()
        self.read_pinned: Callable[[], frozenset[str]] = frozenset
        """Digests and references that somebody wants kept though no sandbox names them."""
        self.on_collected: Callable[[int], None] = lambda _: None

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.checks.scrub())
                tasks.create_task(self._collect_for_ever())
        finally:
            self.checks.close()

    async def collect(self) -> tuple[str, ...]:
        """Look at the disk once and make room; returns the references that went."""
        in_use = self._in_use()
        if in_use is None:
            return ()
        self._store.touch(image.reference for image in self._store.images if image.digest in in_use)
        now = time.time()
        every = (*self._store.images, *self._store.broken)
        idle = {image.reference: now - self._store.used_at(image.reference) for image in every}
        info = os.statvfs(self._store.layers_dir)
        disk = collecting.Disk(total_bytes=(info.f_blocks - info.f_bfree + info.f_bavail) * info.f_frsize, free_bytes=info.f_bavail * info.f_frsize)
        gone = collecting.choose(every, disk, self._limits, idle_seconds=idle, in_use=in_use)
        for reference in gone:
            if (self._in_use() or in_use) & {reference, *(image.digest for image in self._store.images if image.reference == reference)}:
                continue  # somebody asked for it meanwhile
            with contextlib.suppress(ImageNotFound):
                for layer in self._store.remove(reference):
                    await self._forget(layer)
        if gone:
            self.on_collected(len(gone))
            _LOG.info("images collected used_percent=%.0f images=%s", disk.used_percent, ",".join(gone))
        return gone

    def _in_use(self) -> set[str] | None:
        """Manifest digests and references that a sandbox names, live or stopped; None while not all are known."""
        wanted, found = self._wanted(), set(self.read_pinned())
        if wanted is None:
            return None
        for sandbox in wanted:
            image = self._store.find(sandbox.spec.image)
            if image is not None:
                found |= {image.digest, image.reference}
            if sandbox.status is not None and sandbox.status.image_digest:
                found.add(sandbox.status.image_digest)
        return found

    async def _collect_for_ever(self) -> None:
        while True:
            try:
                await self.collect()
            except OSError as error:
                _LOG.warning("images not collected: %s", error)
            await asyncio.sleep(PERIOD_SECONDS if self._wanted() is not None else 1.0)

    def _on_damage(self, layer: Layer, _images: tuple[Image, ...]) -> None:
        task = asyncio.ensure_future(self._forget(layer.path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._poke()

    async def _forget(self, layer: str) -> None:
        with contextlib.suppress(client.KeeperLost):  # the next keeper mounts only what it is asked for
            await act.forget_layer(self._hands, layer)
