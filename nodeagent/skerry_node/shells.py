"""Prepared shells: a few sets of namespaces with their links, made when nothing else is to do, so that a launch finds them waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from skerry_node import act, launching
from skerry_node.keeper import client

_BUSY_PAUSE_SECONDS, _IDLE_PAUSE_SECONDS = 0.01, 0.25
_NEW = "shell-new"
_LOG = logging.getLogger("skerry.shells")


class Pool:
    """Keeps `settings.shells` shells parked in the keeper. The leases of shells are owned by `shell-<slot>`."""

    def __init__(self, hands: act.Hands, *, is_busy: Callable[[], bool]) -> None:
        self._hands = hands
        self._is_busy = is_busy
        self._lock = asyncio.Lock()  # a shell on its way has half of what synchronise looks for

    async def synchronise(self) -> None:
        """After a start of agent or keeper: what is parked and leased stays, halves of it go."""
        async with self._lock:
            await self._synchronise()

    async def _synchronise(self) -> None:
        leases = self._hands.view.leases
        parked = (await self._hands.keeper.state()).shells
        leased = {lease.slot for lease in leases.list() if lease.owner.startswith("shell-")}
        whole = {slot for slot in parked & leased if (leases.owner(slot) or "") == f"shell-{slot}"}
        for slot in parked - whole:
            await self._hands.keeper.discard(slot)
        for slot in leased - whole:
            leases.release(slot)
        self._hands.shells.clear()
        self._hands.shells.update(whole)

    async def run(self) -> None:
        """Refill for ever; launches go first."""
        while True:
            if len(self._hands.shells) >= self._hands.settings.shells or not self._hands.keeper.is_connected:
                await asyncio.sleep(_IDLE_PAUSE_SECONDS)
            elif self._is_busy():
                await asyncio.sleep(_BUSY_PAUSE_SECONDS)
            else:
                async with self._lock:
                    await self._prepare_one()

    async def _prepare_one(self) -> None:
        leases = self._hands.view.leases
        try:
            slot = leases.acquire(_NEW).slot
        except OSError as error:
            _LOG.warning("no shell prepared problem=%s", error)
            await asyncio.sleep(5.0)
            return
        try:
            await self._hands.keeper.prepare(launching.make_shell(self._hands, slot=slot, with_link=True))
        except (client.KeeperLost, client.Refused) as error:
            _LOG.warning("no shell prepared slot=%d problem=%s", slot, error)
            leases.release(slot)
            await asyncio.sleep(1.0)
            return
        leases.hand_over(slot, _NEW, f"shell-{slot}")
        self._hands.shells.add(slot)
