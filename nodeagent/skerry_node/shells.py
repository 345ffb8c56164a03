"""Prepared shells: a few sets of namespaces with their links, made when nothing else is to do, so that a launch finds them waiting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

from skerry_api.egress import OPEN
from skerry_node import launching, means
from skerry_node.keeper import client, wire
from skerry_node.rootfs import scratch

_BUSY_PAUSE_SECONDS, _IDLE_PAUSE_SECONDS, _FAILED_PAUSE_SECONDS = 0.01, 0.25, 1.0
_NEW = "shell-new"
_LOG = logging.getLogger("skerry.shells")


class Pool:
    """Keeps `settings.shells` shells parked in the keeper. The leases of shells are owned by `shell-<slot>`."""

    def __init__(self, hands: means.Hands, *, is_busy: Callable[[], bool]) -> None:
        self._hands = hands
        self._is_busy = is_busy
        self._lock = asyncio.Lock()  # a shell on its way has half of what synchronise looks for

    async def synchronise(self) -> None:
        """After a start of agent or keeper: what is parked and leased stays, halves of it go."""
        async with self._lock:
            await self._synchronise()

    async def _synchronise(self) -> None:
        hands, leases = self._hands, self._hands.view.leases
        parked = (await hands.keeper.state()).shells
        leased = {lease.slot for lease in leases.list() if lease.owner.startswith("shell-")}
        whole = {slot for slot in parked.keys() & leased if leases.owner(slot) == means.shell_name(slot)}
        for slot in parked.keys() - whole:
            await hands.keeper.discard(slot)
        for slot in leased - whole:
            leases.release(slot)
        hands.dressed.clear()
        hands.shells.clear()
        hands.shells.update({slot: parked[slot] for slot in whole})
        names = {means.shell_name(slot) for slot in whole}
        for name in os.listdir(hands.view.scratch_fd):
            if name.startswith("shell-") and name not in names:
                scratch.remove_writable(hands.settings.scratch_dir, name)

    async def run(self) -> None:
        """Refill for ever; launches go first."""
        hands = self._hands
        while True:
            if self._is_busy():
                await asyncio.sleep(_BUSY_PAUSE_SECONDS)
            elif hands.spent:
                scratch.remove_writable(hands.settings.scratch_dir, means.shell_name(hands.spent.pop()))
            elif not hands.keeper.is_connected:
                await asyncio.sleep(_IDLE_PAUSE_SECONDS)
            elif len(hands.shells) < hands.settings.shells:
                async with self._lock:
                    await self._prepare_one()
            elif (plain := self._find_plain()) is not None:
                async with self._lock:
                    await self._discard(plain)
            else:
                await asyncio.sleep(_IDLE_PAUSE_SECONDS)

    def _find_plain(self) -> int | None:
        """A shell without a root, once it is known which root is wanted."""
        if self._hands.favourite is None:
            return None
        return next((slot for slot, layers in self._hands.shells.items() if layers is None), None)

    async def _discard(self, slot: int) -> None:
        if slot not in self._hands.shells:
            return  # a launch took it
        del self._hands.shells[slot]
        with contextlib.suppress(client.KeeperLost):
            await self._hands.keeper.discard(slot)
        self._hands.view.leases.release(slot)

    async def _prepare_one(self) -> None:
        leases = self._hands.view.leases
        slot = None
        try:
            slot = leases.acquire(_NEW).slot
            self._hands.view.firewall.ensure(slot, OPEN)  # before its link is there
            layers = await self._prepare(slot)
        except (OSError, client.KeeperLost, client.Refused) as error:
            _LOG.warning("no shell prepared slot=%s problem=%s", slot, error)
            if slot is not None:
                leases.release(slot)
                self._hands.spent.append(slot)
            self._hands.favourite = None
            await asyncio.sleep(_FAILED_PAUSE_SECONDS)
            return
        leases.hand_over(slot, _NEW, means.shell_name(slot))
        self._hands.shells[slot] = layers

    async def _prepare(self, slot: int) -> means.Layers | None:
        """Park a shell in *slot*, with the root of the last start on: it is the likeliest to be wanted next. Returns its layers."""
        hands, dress = self._hands, None
        shell = launching.make_shell(hands, slot=slot, with_link=True)
        if hands.favourite is not None:
            dress = wire.Dress(layers=hands.favourite, writable=means.shell_name(slot))
            scratch.ensure_writable(hands.settings.scratch_dir, dress.writable, owner=shell.id_base)
        await hands.keeper.prepare(shell, dress=dress)
        return dress.layers if dress is not None else None
