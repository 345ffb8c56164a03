"""The node's Lease and SandboxNode, for as long as the agent lives: that it does, where it is reached, and what it can take."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from skerry_api.node import PreparedImage, SandboxNode
from skerry_api.sandbox import Sandbox
from skerry_node import errors, inventory, means, report
from skerry_node.build import cache
from skerry_node.image.store import Store
from skerry_node.sources import Source

_LOG = logging.getLogger("skerry.heartbeat")


class Heartbeat:
    """Beats every `heartbeat_seconds`, and at once when there is something new. *list_wanted* gives the sandboxes of this node."""

    def __init__(self, hands: means.Hands, source: Source, store: Store, *, list_wanted: Callable[[], Iterable[Sandbox]]) -> None:
        self._hands = hands
        self._source = source
        self._store = store
        self._list_wanted = list_wanted
        self._endpoint: tuple[str, int] | None = None
        self._must_beat = asyncio.Event()
        self.read_prepared: Callable[[], tuple[PreparedImage, ...] | None] = lambda: None
        """What the node says of SandboxImages."""

    def announce(self, address: str, port: int) -> None:
        """The gateway finds this agent there; its SandboxNode says so at once."""
        self._endpoint = (address, port)
        self._must_beat.set()

    def beat_soon(self) -> None:
        """Something that the node's object tells is new."""
        self._must_beat.set()

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            try:
                await self._source.renew_lease()
                await self._source.write_node(self._describe())
            except errors.SourceUnavailable as error:
                _LOG.warning("heartbeat not sent problem=%s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._hands.settings.heartbeat_seconds):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._must_beat.wait()
            self._must_beat.clear()

    def _describe(self) -> SandboxNode:
        groups = self._hands.view.groups
        return inventory.describe(
            self._hands.settings,
            self._list_wanted(),
            [image for image in self._store.list() if not cache.is_stage(image.reference)],
            cgroup_version=groups.hierarchies.version,
            has_freezer=groups.has_freezer,
            endpoint=self._endpoint,
            prepared=self.read_prepared(),
            now=report.render_time(time.time_ns())[:19] + "Z",
        )
