"""Keeps the status of SandboxImages in step with what the nodes say. Level-triggered: everything is looked at again whenever anything changed."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Callable

from skerry_api.image import SandboxImage, parse_image
from skerry_operator import errors, images
from skerry_operator.client import Json
from skerry_operator.inventory import Inventory
from skerry_operator.kubeapi import KubeApi
from skerry_operator.lifecycle import render_time
from skerry_operator.nodewatch import NodeWatch

_LOG = logging.getLogger("skerry.images")
_PAUSE_SECONDS = 0.2
"""Between two looks at all, so that many nodes' news make one write."""
_RESYNC_SECONDS = 30.0


class ImageController:
    """Takes events in, writes statuses out."""

    def __init__(self, kubeapi: KubeApi, inventory: Inventory, watch: NodeWatch, *, now: Callable[[], datetime.datetime]) -> None:
        self._kubeapi = kubeapi
        self._inventory = inventory
        self._watch = watch
        self._now = now
        self._images: dict[str, Json] = {}
        self._news = asyncio.Event()

    def take(self, raw: Json, *, is_deleted: bool) -> None:
        """An event of a SandboxImage."""
        uid = str(raw["metadata"]["uid"])
        if is_deleted:
            self._images.pop(uid, None)
        else:
            self._images[uid] = raw
            self._news.set()

    def nodes_changed(self) -> None:
        """Something about a node is new."""
        if self._images:
            self._news.set()

    async def run(self) -> None:
        """For ever: look at all, when there is news and every half minute, with a complete list."""
        listed_at = 0.0
        while True:
            clock = asyncio.get_running_loop().time()
            try:
                if clock - listed_at >= _RESYNC_SECONDS:
                    self._images = {str(raw["metadata"]["uid"]): raw for raw in await self._kubeapi.list_images()}
                    listed_at = clock
                for raw in list(self._images.values()):
                    await self._look(raw)
            except errors.LeadershipLost:
                return  # the keeper of the Lease ends the process
            except errors.RequestFailed as error:
                _LOG.warning("images not looked at problem=%s", error)
                listed_at = 0.0
            await asyncio.sleep(_PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RESYNC_SECONDS):
                    await self._news.wait()
            self._news.clear()

    async def _look(self, raw: Json) -> None:
        try:
            image = parse_image(raw)
        except (ValueError, KeyError, TypeError) as error:
            _LOG.warning("not understood uid=%s problem=%s", raw["metadata"].get("uid"), error)
            return
        if image.is_deleted:
            return
        wanted = images.decide(image, self._inventory.nodes(), is_alive=self._watch.is_alive, now=render_time(self._now()))
        if _differs(wanted, raw.get("status") or {}):
            await self._write(image, wanted)

    async def _write(self, image: SandboxImage, status: Json) -> None:
        try:
            answer = await self._kubeapi.write_image_status(image, status)
        except errors.NotFound:
            self._images.pop(image.uid, None)
        except errors.Conflict:
            return  # its newer self is on its way
        else:
            self._images[image.uid] = answer


def _differs(wanted: Json, stored: Json) -> bool:
    """Whether a write would change anything; null takes a field away."""
    return any(stored.get(key) != value for key, value in wanted.items())
