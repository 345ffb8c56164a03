"""The agent's loop: a mailbox per uid that keeps only the newest want, timers, a slow resync, orphans, and a keeper that is always there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from collections.abc import Collection

from skerry_api.sandbox import Sandbox, SandboxStatus
from skerry_node import building, errors, happenings, heartbeat, imaging, means, metrics, observe, orphans, reconcile, shells, upkeep
from skerry_node.image.store import Store
from skerry_node.keeper import client
from skerry_node.model import Running
from skerry_node.sources import Change, Gone, Invalid, Snapshot, Source, Upsert

RESYNC_SECONDS = 30.0
MIN_PAUSE_SECONDS = 0.02
KEEPER_SECONDS = 5.0
_LOG = logging.getLogger("skerry.loop")


class Loop:
    """Reconciles every sandbox of this node until cancelled. Drains nothing when it ends: sandboxes do not notice."""

    def __init__(self, *, hands: means.Hands, source: Source, store: Store, meters: metrics.Meters) -> None:
        self.hands = hands
        self.store = store
        self.wanted: dict[str, Sandbox] = {}
        self.outcomes: dict[str, reconcile.Outcome] = {}
        self._source = source
        self._meters = meters
        self.guests = building.Guests()
        self._orphans = orphans.Watch()
        self._dirty: dict[str, float] = {}
        """Who is to be looked at, and since when."""
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._reported: dict[str, SandboxStatus] = {}
        self._pool = shells.Pool(hands, is_busy=lambda: bool(self._workers))
        self._keeper_lost = asyncio.Event()
        self._keeper_ready = asyncio.Event()
        self.listed = asyncio.Event()
        """Set with the first complete list: from then on a sandbox that is not in `wanted` is not there."""
        self._invalid: set[str] = set()
        self._observed_at = time.monotonic()
        self.heartbeat = heartbeat.Heartbeat(hands, source, store, list_wanted=self._list_wanted)

    async def run(self) -> None:
        """Run until cancelled."""
        self.hands.handles.hold_all()  # first of all: these handles tell of ends that no keeper sees
        self._keeper_lost.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_source())
            tasks.create_task(self._resync())
            tasks.create_task(self._guard_keeper())
            tasks.create_task(self._pool.run())
            tasks.create_task(self.heartbeat.run())
            tasks.create_task(upkeep.follow_volumes(self.hands, self._list_running))

    def known(self) -> tuple[Sandbox, ...] | None:
        """Every sandbox of this node; None before a first complete list, when nothing may be concluded from one that is not there."""
        return tuple(self.wanted.values()) if self._orphans.has_complete_list else None

    def stale_seconds(self) -> float:
        """Age of the last observation: of any sandbox, or of there being none to look at. A healthy agent looks every half minute."""
        return time.monotonic() - self._observed_at

    def is_ready(self) -> bool:
        """Whether it knows what is wanted and has a keeper to do it."""
        return self._orphans.has_complete_list and self._keeper_ready.is_set()

    def poke(self, uid: str) -> None:
        """Look at *uid* as soon as possible; one look serves any number of pokes."""
        self._dirty.setdefault(uid, time.monotonic())
        if uid not in self._workers:
            task = asyncio.get_running_loop().create_task(self._work(uid))
            self._workers[uid] = task
            task.add_done_callback(lambda _: self._workers.pop(uid, None))

    def poke_all(self) -> None:
        """Look at every sandbox that is wanted."""
        for uid in list(self.wanted):
            self.poke(uid)

    def on_exit(self, uid: str) -> None:
        """The keeper saw the first process of *uid* end."""
        if not self.guests.on_exit(uid):
            self.poke(uid)

    def on_keeper_lost(self) -> None:
        """The connection to the keeper broke."""
        _LOG.warning("keeper lost; starting the next one")
        self._keeper_ready.clear()
        self._keeper_lost.set()

    async def ensure_keeper(self) -> None:
        """Have a keeper on the line, and our shells and handles in step with it."""
        if await self.hands.keeper.connect():
            self._meters.keeper_started()
        if await self.hands.keeper.renew():
            raise client.KeeperLost("it becomes the keeper of this agent's version")
        self.hands.handles.hold_all()
        await self._pool.synchronise()
        self._keeper_ready.set()

    async def _follow_source(self) -> None:
        async for change in self._source.watch():
            self._take(change)

    def _take(self, change: Change) -> None:
        match change:
            case Snapshot(sandboxes):
                self._take_snapshot({sandbox.metadata.uid: sandbox for sandbox in sandboxes})
            case Upsert(sandbox):
                self._take_upsert(sandbox)
            case Gone(uid):
                self._forget(uid)
            case Invalid():
                self._invalid.add(change.uid)
                _LOG.warning("invalid object name=%s/%s problem=%s", change.namespace, change.name, change.problem)

    def _take_upsert(self, sandbox: Sandbox) -> None:
        """An echo of our own status asks for nothing (law 3); what the operator wrote over it is said again."""
        uid = sandbox.metadata.uid
        known = self.wanted.get(uid)
        self.wanted[uid] = sandbox
        self._invalid.discard(uid)
        is_lost = _is_called_lost(sandbox)
        if is_lost:
            self._reported.pop(uid, None)
        if known is None or is_lost or (known.spec, known.metadata.deletion_timestamp) != (sandbox.spec, sandbox.metadata.deletion_timestamp):
            self.poke(uid)

    def _take_snapshot(self, listed: dict[str, Sandbox]) -> None:
        missing = set(self.wanted) - set(listed)
        held = self._orphans.hold(missing, known=len(self.wanted), now=time.monotonic())
        self.wanted = {**{uid: self.wanted[uid] for uid in held}, **listed}
        for uid in missing - held:
            self._forget(uid)
        self.listed.set()
        self.poke_all()
        self._poke_orphans()

    def _forget(self, uid: str) -> None:
        self.wanted.pop(uid, None)
        self._reported.pop(uid, None)
        self.outcomes.pop(uid, None)
        self.poke(uid)

    def _poke_orphans(self) -> None:
        if not self._orphans.has_complete_list:
            return
        for uid in observe.find_uids(self.hands.view) - set(self.wanted) - self._invalid - self.guests.uids:
            _LOG.info("orphan found uid=%s", uid)
            self._meters.orphan_found()
            self.poke(uid)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for uid in self._orphans.release(now=time.monotonic()):
                if uid in self.wanted:
                    _LOG.warning("confirmed gone uid=%s", uid)
                    self._forget(uid)
            if not self._workers:
                self._observed_at = time.monotonic()
            await upkeep.check_rules(self.hands)
            upkeep.repair_ports(self.hands)
            upkeep.refresh_bandwidth(self.hands)
            self.poke_all()
            self._poke_orphans()
            with contextlib.suppress(client.KeeperLost, client.Refused, OSError, subprocess.SubprocessError):
                await self.hands.keeper.renew()  # one that had to refuse

    def _list_wanted(self) -> Collection[Sandbox]:
        return self.wanted.values()

    def _list_running(self) -> list[Sandbox]:
        return [sandbox for uid, sandbox in self.wanted.items() if uid in self.outcomes and isinstance(self.outcomes[uid].observed.process, Running)]

    async def _guard_keeper(self) -> None:
        while True:
            await self._keeper_lost.wait()
            self._keeper_lost.clear()
            try:
                await self.ensure_keeper()
            except (client.KeeperLost, client.Refused, OSError, subprocess.SubprocessError) as error:
                _LOG.error("keeper does not start problem=%s", error)
                await asyncio.sleep(1.0)
                self._keeper_lost.set()
                continue
            self.poke_all()

    async def _work(self, uid: str) -> None:
        while uid in self._dirty:
            queued_seconds = time.monotonic() - self._dirty.pop(uid)
            timer = self._timers.pop(uid, None)
            if timer is not None:
                timer.cancel()
            try:
                await self._reconcile(uid, queued_seconds)
            except Exception:  # noqa: BLE001 - the one broad catch: a bug in one is no harm to others
                _LOG.exception("reconcile failed uid=%s", uid)
                self._poke_later(uid, seconds=5.0)

    async def _wait_for_keeper(self) -> None:
        """A keeper is a moment away when the agent starts or the last one died; one that does not come is reported by what needs it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEPER_SECONDS):
                await self._keeper_ready.wait()

    async def _reconcile(self, uid: str, queued_seconds: float) -> None:
        if not self._keeper_ready.is_set():
            await self._wait_for_keeper()
        sandbox = self.wanted.get(uid)
        before = self.outcomes.get(uid)
        began = time.monotonic()
        outcome = await reconcile.reconcile(self.hands, self.store, uid, sandbox=sandbox, failures=before.failures if before is not None else 0)
        self._observed_at = time.monotonic()
        self._meters.reconciled(outcome, seconds=time.monotonic() - began, queued_seconds=queued_seconds)
        if outcome.deadline_seconds is not None:
            self._poke_later(uid, seconds=outcome.deadline_seconds - outcome.observed.now_seconds)
        if sandbox is None or uid not in self.wanted:
            self.outcomes.pop(uid, None)
            return
        self.outcomes[uid] = outcome
        if outcome.status is not None:
            await self._write_status(sandbox, outcome.status)

    async def _write_status(self, sandbox: Sandbox, status: SandboxStatus) -> None:
        uid = sandbox.metadata.uid
        if status == self._reported.get(uid, sandbox.status):
            return
        try:
            await self._source.write_status(sandbox, status=status)
        except errors.SourceUnavailable as error:
            _LOG.warning("status not written uid=%s problem=%s", uid, error)
            self._poke_later(uid, seconds=1.0)
            return
        previous, self._reported[uid] = self._reported.get(uid, sandbox.status), status
        self._post_event(sandbox, previous, status)

    def _post_event(self, sandbox: Sandbox, previous: SandboxStatus, status: SandboxStatus) -> None:
        """One Event per transition that a person asks about; imaging tells of pulls itself, each time."""
        told = happenings.find(previous, status, image=sandbox.spec.image, silent=frozenset({imaging.PULLING, imaging.FAILED}))
        if told is not None:
            self._source.post_event(sandbox, reason=told.reason, message=told.message, warning=told.is_warning)

    def _poke_later(self, uid: str, *, seconds: float) -> None:
        timer = self._timers.pop(uid, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[uid] = loop.call_later(max(seconds, MIN_PAUSE_SECONDS), self.poke, uid)


def _is_called_lost(sandbox: Sandbox) -> bool:
    return any(condition.type == "Ready" and condition.reason == "NodeLost" for condition in sandbox.status.conditions)
