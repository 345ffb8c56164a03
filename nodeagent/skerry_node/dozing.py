"""Idle sandboxes on this node: one pass over those that have `ttl.idleSeconds`, and how one that sleeps wakes.

The pass reads one file for all links and one for each sandbox's CPU. What it saw is put beside the runtime records, so that an agent that
dies takes no time away. An exec or a connection through our doors wakes a sandbox before it enters; other packets by `network.knocks`, or,
where the kernel cannot tell of them, by the next pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from skerry_api.sandbox import DesiredState, Sandbox
from skerry_node import idling, lives, means
from skerry_node.cgroup import stats
from skerry_node.keeper import records
from skerry_node.model import Observed, Running
from skerry_node.network import knocks, traffic
from skerry_node.reconcile import Outcome

_FILE = "idle"
_LOG = logging.getLogger("skerry.dozing")


class Looks(Protocol):
    """The loop, as far as it matters here."""

    wanted: dict[str, Sandbox]
    outcomes: dict[str, Outcome]

    def poke(self, uid: str) -> None:
        """Look at *uid* as soon as possible."""
        ...


class Dozing:
    """Must be used inside one event loop."""

    def __init__(self, hands: means.Hands, loop: Looks) -> None:
        self._hands = hands
        self._loop = loop
        self._visits: Counter[str] = Counter()
        self._path = os.path.join(hands.settings.run_dir, _FILE)
        self._listener: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._listed: frozenset[str] = frozenset()
        self._tasks: set[asyncio.Task[None]] = set()
        self.read_busy: Callable[[], frozenset[str]] = frozenset
        """The uids in which an exec or a copy of ours lives."""
        hands.idle = self._restore()
        hands.before_sleep = self._before_sleep

    async def run(self) -> None:
        """Watch for ever."""
        await self._open_ears()
        try:
            while True:
                await asyncio.sleep(self._hands.settings.idle_sample_seconds)
                self._look()
                await self._tell_sleepers(self._sleepers())
        finally:
            if self._listener is not None:
                asyncio.get_running_loop().remove_reader(self._listener)
                self._listener.close()

    @contextlib.contextmanager
    def visit(self, sandbox: Sandbox) -> Iterator[None]:
        """Somebody is with the sandbox for the time of a block: it does not sleep."""
        uid = sandbox.metadata.uid
        self._visits[uid] += 1
        try:
            self.rouse(sandbox)
            yield
        finally:
            self._visits[uid] -= 1
            if not self._visits[uid]:
                del self._visits[uid]
            self._hands.idle.note(uid, now=_now())

    def rouse(self, sandbox: Sandbox) -> bool:
        """Let the sandbox go on if it sleeps; whether it is awake now. What its user paused stays so."""
        hands, uid = self._hands, sandbox.metadata.uid
        if sandbox.spec.desired_state is DesiredState.PAUSED:
            return False
        group = hands.view.groups.open(uid)
        if sandbox.spec.ttl.idle_seconds is None:
            return not group.is_frozen()
        hands.idle.note(uid, now=_now())
        life = lives.read(hands.view.runtime_fd, uid)
        if life is not None and life.is_asleep:
            name = f"{sandbox.metadata.namespace}/{sandbox.metadata.name}"
            lives.write(hands.view.runtime_fd, uid, dataclasses.replace(life, is_asleep=False), name=name)
            with contextlib.suppress(OSError):
                group.thaw()
            _LOG.info("woken uid=%s", uid)
            self._loop.poke(uid)
            task = asyncio.get_running_loop().create_task(self._tell_sleepers(self._sleepers() - {self._link(uid)}))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return not group.is_frozen()

    def _look(self) -> None:
        """One pass over all that can become idle."""
        hands, now, busy = self._hands, _now(), self.read_busy() | self._visits.keys()
        moved: Mapping[str, int] | None = None
        seen: set[str] = set()
        for uid, sandbox in self._loop.wanted.items():
            outcome = self._loop.outcomes.get(uid)
            if sandbox.spec.ttl.idle_seconds is None or outcome is None or not isinstance(outcome.observed.process, Running):
                continue
            moved = traffic.read_moved() if moved is None else moved
            try:
                reading = self._read(uid, outcome.observed, moved)
            except OSError:
                continue  # it has just ended
            seen.add(uid)
            is_paused = sandbox.spec.desired_state is DesiredState.PAUSED
            is_busy = is_paused or uid in busy
            process = outcome.observed.process
            was_active = hands.idle.take(uid, process.attempt, reading, now=now, started=process.since_seconds, is_busy=is_busy)
            if was_active and outcome.observed.life.is_asleep and not is_paused:
                self.rouse(sandbox)
            active_at = hands.idle.active_at(uid, process.attempt)
            if not outcome.observed.life.is_asleep and active_at is not None and now - active_at >= sandbox.spec.ttl.idle_seconds:
                self._loop.poke(uid)
        hands.idle.retain(seen)
        self._save()

    def _read(self, uid: str, observed: Observed, moved: Mapping[str, int]) -> idling.Reading:
        link = self._hands.view.leases.veth_name(observed.slot) if observed.slot is not None else ""
        return idling.Reading(stats.read_cpu_seconds(self._hands.view.groups.open(uid)), moved.get(link, 0))

    def _restore(self) -> idling.Table:
        try:
            with open(self._path, "rb") as file:
                return idling.parse(json.loads(file.read()), boot_id=records.BOOT_ID)
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return idling.Table()

    def _save(self) -> None:
        """Half a file is never seen: the next agent reads the old one or the new one."""
        temporary = f"{self._path}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump(idling.render(self._hands.idle, boot_id=records.BOOT_ID), file)
        os.rename(temporary, self._path)

    async def _open_ears(self) -> None:
        hands = self._hands
        group = hands.bridge_index & 0xFFFF
        try:
            await asyncio.to_thread(knocks.load, knocks.render_rules(hands.settings.bridge, group=group))
            self._listener = knocks.listen(group)
        except knocks.KnocksUnavailable as error:
            _LOG.warning("packets wake no sandbox before the next look problem=%s", error)
            return
        asyncio.get_running_loop().add_reader(self._listener, self._hear)
        self._listed = frozenset()

    def _hear(self) -> None:
        assert self._listener is not None
        try:
            indices = knocks.receive(self._listener)
        except OSError:  # more than the buffer held: the next look sees what they did
            return
        links = set()
        for index in indices:
            with contextlib.suppress(OSError):
                links.add(socket.if_indextoname(index))
        if links:
            for uid, sandbox in list(self._loop.wanted.items()):
                if sandbox.spec.ttl.idle_seconds is not None and self._link(uid) in links:
                    self.rouse(sandbox)

    async def _before_sleep(self, uid: str) -> None:
        """Packets are listened for before it sleeps, so that none falls between."""
        await self._tell_sleepers(self._sleepers() | {self._link(uid)})

    async def _tell_sleepers(self, links: frozenset[str]) -> None:
        if self._listener is None:
            return
        async with self._lock:
            wanted = frozenset(links - {""})
            if wanted == self._listed:
                return
            try:
                await asyncio.to_thread(knocks.load, knocks.render_sleepers(self._hands.settings.bridge, wanted))
            except knocks.KnocksUnavailable as error:
                _LOG.warning("sleepers not told problem=%s", error)
                return
            self._listed = wanted

    def _sleepers(self) -> frozenset[str]:
        return frozenset(self._link(uid) for uid, outcome in self._loop.outcomes.items() if outcome.observed.life.is_asleep)

    def _link(self, uid: str) -> str:
        outcome = self._loop.outcomes.get(uid)
        slot = outcome.observed.slot if outcome is not None else None
        return self._hands.view.leases.veth_name(slot) if slot is not None else ""


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
