"""Whether sealed layers are what was sealed: looked at before the first use since boot, and slowly for ever after. Damage is removed and named.

A launch asks a dictionary. What was converted since boot is known to be fine; what this boot has looked at is remembered in memory (/run).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from skerry_node.image import sealing
from skerry_node.image.record import Image, Layer
from skerry_node.image.store import Store

_LOG = logging.getLogger("skerry.images")
_IDLE_SECONDS = 60.0
ROUND_SECONDS = 86_400.0
"""A layer is looked at again after a day."""
_DAMAGED = {errno.EIO, errno.EUCLEAN}
"""What the disk, and fs-verity, say of a page that cannot be right."""


class LayerDamaged(OSError):
    """A layer is not what was sealed. It is gone from the store, and its images are to be brought in again."""


class Checks:
    """Checks of one store. *on_damage* is told, in the loop, which layer went and which images lack it now."""

    def __init__(self, store: Store, *, bytes_per_second: int, on_damage: Callable[[Layer, tuple[Image, ...]], None]) -> None:
        self._store = store
        self._bytes_per_second = bytes_per_second
        self._on_damage = on_damage
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._looked: dict[str, float] = {}
        self._is_closed = threading.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scrub")

    async def ensure(self, image: Image) -> None:
        """Return when every layer of *image* is known to be fine since boot: at once, but for the first use. Raises LayerDamaged."""
        for layer in image.layers:
            if self._store.verified.has(layer.path):
                continue
            if not await self._check(layer):
                raise LayerDamaged(errno.EIO, f"layer {layer.diff_id} was damaged on this disk and is removed; bring {image.reference} in again")

    async def scrub(self) -> None:
        """Look at every layer, those unknown first, then a day after the last look, no faster than the set rate. For ever; 0: never."""
        while self._bytes_per_second:
            layer = _next(self._store.images, self._looked, now=time.monotonic())
            if layer is None:
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            self._looked[layer.path] = time.monotonic()
            loop = asyncio.get_running_loop()
            is_fine = await loop.run_in_executor(self._executor, self._look, layer, self._pause)
            self._settle(layer, is_fine=is_fine)

    def close(self) -> None:
        """End the thread of the scrubber soon."""
        self._is_closed.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _check(self, layer: Layer) -> bool:
        """One look for all who wait for it."""
        task = self._running.get(layer.path)
        if task is None:
            task = self._running[layer.path] = asyncio.ensure_future(self._check_once(layer))
            task.add_done_callback(lambda _: self._running.pop(layer.path, None))
        return await asyncio.shield(task)

    async def _check_once(self, layer: Layer) -> bool:
        is_fine = await asyncio.to_thread(self._look, layer, None)
        self._looked[layer.path] = time.monotonic()
        self._settle(layer, is_fine=is_fine)
        return is_fine is not False

    def _look(self, layer: Layer, pause: Callable[[int], None] | None) -> bool | None:
        """None: it vanished meanwhile, or nobody wants to know any more."""
        try:
            fd = os.open(layer.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._store.layers_fd)
        except FileNotFoundError:
            return None
        try:
            return sealing.seal(fd, pause=pause) == sealing.Sealed(layer.size_bytes, layer.seal)
        except OSError as error:
            if error.errno in _DAMAGED:
                return False
            raise
        except _Closed:
            return None
        finally:
            os.close(fd)

    def _settle(self, layer: Layer, *, is_fine: bool | None) -> None:
        if is_fine:
            self._store.verified.add(layer.path)
        elif is_fine is False:
            broken = self._store.drop_layer(layer.diff_id)
            _LOG.error("layer damaged diff_id=%s images=%s", layer.diff_id, ",".join(image.reference for image in broken))
            self._on_damage(layer, broken)

    def _pause(self, length: int) -> None:
        if self._is_closed.wait(length / self._bytes_per_second):
            raise _Closed


class _Closed(Exception):
    """The agent ends."""


def _next(images: Iterable[Image], looked: dict[str, float], *, now: float) -> Layer | None:
    """The layer whose last look is longest ago; one that was never looked at comes first. None when all were seen within a day."""
    layers = {layer.path: layer for image in images for layer in image.layers}
    for path in looked.keys() - layers.keys():
        del looked[path]
    due = [layer for layer in layers.values() if now - looked.get(layer.path, -ROUND_SECONDS) >= ROUND_SECONDS]
    return min(due, key=lambda layer: (looked.get(layer.path, -ROUND_SECONDS), layer.path), default=None)
