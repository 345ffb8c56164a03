"""Brings each sandbox to where it belongs: asks the pure rooms for one decision, makes one write, and lets the answer bring the next.

A sandbox is worked on by one coroutine at a time; news that come meanwhile make it look again. Nothing is decided before the first
complete list, because a decision made on half a picture spends room twice.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from skerry_api.node import parse_node
from skerry_api.sandbox import Sandbox, TerminationReason, parse_sandbox
from skerry_operator import errors, lifecycle, scheduling
from skerry_operator.client import Json
from skerry_operator.events import Recorder
from skerry_operator.inventory import Inventory
from skerry_operator.kubeapi import KubeApi
from skerry_operator.metrics import Metrics
from skerry_operator.nodewatch import NodeWatch
from skerry_operator.settings import Settings

_LOG = logging.getLogger("skerry.controller")
_CHUNK = 256
"""Sandboxes looked at together where all are: enough to fill the connections, few enough to let events through."""
_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.5, 30.0
_PAUSE_SECONDS = 0.02
"""Between two passes over all that wait, so that many events of room make one pass."""


class Controller:
    """Takes events in, writes decisions out."""

    def __init__(
        self, kubeapi: KubeApi, inventory: Inventory, watch: NodeWatch, recorder: Recorder, *,
        settings: Settings, metrics: Metrics, now: Callable[[], datetime.datetime],
    ) -> None:  # fmt: skip
        self._kubeapi = kubeapi
        self._inventory = inventory
        self._watch = watch
        self._recorder = recorder
        self._metrics = metrics
        self._resync_seconds = settings.resync_seconds
        self._now = now
        self._is_synced = False
        self._room = asyncio.Event()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failed: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reasons: dict[str, str] = {}
        metrics.sandboxes.set_function(lambda: len(inventory.uids()))
        metrics.nodes.set_function(lambda: len(inventory.node_names()))
        metrics.watch_pending(self._read_pending)

    async def take_sandbox(self, raw: Json, *, is_deleted: bool) -> None:
        """An event of a sandbox: remember it, and do what it needs."""
        uid = str(raw["metadata"]["uid"])
        if is_deleted:
            self._forget(uid)
        elif self._inventory.is_known(uid, str(raw["metadata"]["resourceVersion"])):
            return  # our own write coming back, or the first list once more
        elif self._remember(raw) and self._is_synced:
            await self.reconcile(uid)

    def take_node(self, raw: Json, *, is_deleted: bool) -> None:
        """An event of a node: remember it, and look at those that wait if it made room."""
        node = parse_node(raw)
        if is_deleted:
            self._inventory.forget_node(node.name)
        if is_deleted or self._inventory.apply_node(node):
            self._room.set()

    async def sync(self) -> None:
        """The first complete picture; decisions are made from here on. Raises errors.RequestFailed."""
        for raw in await self._kubeapi.list_nodes():
            self.take_node(raw, is_deleted=False)
        for raw in await self._kubeapi.list_sandboxes():
            self._remember(raw)
        self._is_synced = True
        self._spawn(self._reconcile_all(self._inventory.uids()))

    async def run(self) -> None:
        """For ever: try those that wait when room appears, and compare with complete lists. Call after `sync`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run(self._node_changed))
            group.create_task(self._retry_waiting())
            group.create_task(self._resync())

    async def reconcile(self, uid: str) -> None:
        """Do what *uid* needs; returns at once when that is being done."""
        self._again.add(uid)
        if uid in self._busy:
            return
        self._busy.add(uid)
        try:
            while uid in self._again:
                self._again.discard(uid)
                await self._step(uid)
        finally:
            self._busy.discard(uid)

    async def _step(self, uid: str) -> None:
        sandbox = self._inventory.find_sandbox(uid)
        if sandbox is None:
            return
        node_name = sandbox.spec.node_name
        is_lost = node_name is not None and self._watch.is_lost(node_name)
        action = lifecycle.decide(sandbox, is_node_lost=is_lost, now=self._now())
        if action is None:
            return
        try:
            await self._perform(sandbox, action)
        except errors.LeadershipLost:
            return  # the keeper of the Lease ends the process
        except errors.NotFound:
            self._forget(uid)
        except errors.RequestFailed as error:
            self._fail(sandbox, action, error)
        else:
            self._failed.pop(uid, None)
            if self._inventory.find_sandbox(uid) is not sandbox:
                self._again.add(uid)  # the answer may ask for more, and its event will not be looked at

    async def _perform(self, sandbox: Sandbox, action: lifecycle.Action) -> None:
        match action:
            case lifecycle.Place():
                await self._place(sandbox)
            case lifecycle.Protect():
                self._inventory.apply_answer(await self._kubeapi.add_finalizer(sandbox))
            case lifecycle.Release():
                await self._kubeapi.remove_finalizer(sandbox)
                _LOG.info("released uid=%s node=%s", sandbox.metadata.uid, sandbox.spec.node_name)
            case lifecycle.MarkLost():
                self._inventory.apply_answer(await self._kubeapi.write_status(sandbox, lifecycle.lost_status(sandbox, now=self._now())))
                self._recorder.about_sandbox(
                    sandbox, reason=TerminationReason.NODE_LOST.value, message=f"node {sandbox.spec.node_name} sends no heartbeat"
                )
            case lifecycle.ConfirmScheduled():
                status = lifecycle.scheduled_status(sandbox, unschedulable=None, now=self._now())
                self._inventory.apply_answer(await self._kubeapi.write_status(sandbox, status))
            case lifecycle.Expire():
                await self._kubeapi.delete(sandbox)
                self._metrics.expired.inc()
                _LOG.info("expired uid=%s", sandbox.metadata.uid)
            case lifecycle.Wait(seconds):
                self._look_again(sandbox.metadata.uid, seconds)

    async def _place(self, sandbox: Sandbox) -> None:
        started, uid = asyncio.get_running_loop().time(), sandbox.metadata.uid
        with self._metrics.schedule_seconds.time():
            decision = scheduling.schedule(sandbox.spec, self._inventory.candidates(self._watch.is_alive))
        if isinstance(decision, scheduling.Bound):
            self._inventory.assume(uid, decision.node_name)
            try:
                answer = await self._kubeapi.bind(sandbox, decision.node_name)
            except BaseException:
                self._inventory.unassume(uid)
                self._room.set()
                raise
            self._inventory.apply_answer(answer)
            self._metrics.binds.inc()
            self._metrics.bind_seconds.observe(asyncio.get_running_loop().time() - started)
            self._reasons.pop(uid, None)
            return
        self._reasons[uid] = decision.reason
        known = lifecycle.find_condition(sandbox, "Scheduled")
        if known is not None and known.status == "False" and known.message == decision.message:
            return
        status = lifecycle.scheduled_status(sandbox, unschedulable=decision.message, now=self._now())
        self._inventory.apply_answer(await self._kubeapi.write_status(sandbox, status))
        self._recorder.about_sandbox(sandbox, reason="FailedScheduling", message=decision.message)

    def _read_pending(self) -> list[tuple[str, float]]:
        """Of each that waits for a node: why, and for how many seconds. Called from the thread that answers scrapes."""
        now, found = self._now(), []
        for sandbox in self._inventory.unbound():
            created = sandbox.metadata.creation_timestamp
            seconds = (now - datetime.datetime.fromisoformat(created)).total_seconds() if created else 0.0
            found.append((self._reasons.get(sandbox.metadata.uid, "Undecided"), max(seconds, 0.0)))
        return found

    def _fail(self, sandbox: Sandbox, action: lifecycle.Action, error: errors.RequestFailed) -> None:
        uid = sandbox.metadata.uid
        newest = self._inventory.find_sandbox(uid)
        if isinstance(error, errors.Conflict) and newest is not None and newest is not sandbox:
            self._again.add(uid)  # its newer self is here already
            return
        self._metrics.failures.labels(type(action).__name__).inc()
        tries = self._failed[uid] = self._failed.get(uid, 0) + 1
        delay = min(_RETRY_SECONDS * 2 ** (tries - 1), _MAX_RETRY_SECONDS)
        _LOG.warning("write failed uid=%s action=%s again_in=%.1f problem=%s", uid, type(action).__name__, delay, error)
        self._look_again(uid, delay)

    def _remember(self, raw: Json) -> bool:
        """Whether *raw* is a sandbox that we understand."""
        try:
            has_room = self._inventory.apply_sandbox(parse_sandbox(raw))
        except (ValueError, KeyError, TypeError) as error:
            _LOG.warning("not understood uid=%s problem=%s", raw["metadata"].get("uid"), error)
            return False
        if has_room:
            self._room.set()
        return True

    def _forget(self, uid: str) -> None:
        if (timer := self._timers.pop(uid, None)) is not None:
            timer.cancel()
        self._failed.pop(uid, None)
        self._reasons.pop(uid, None)
        if self._inventory.forget_sandbox(uid):
            self._room.set()

    def _node_changed(self, names: frozenset[str]) -> None:
        self._room.set()
        self._spawn(self._reconcile_all({uid for name in names for uid in self._inventory.uids_on(name)}))

    def _look_again(self, uid: str, seconds: float) -> None:
        if (timer := self._timers.pop(uid, None)) is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[uid] = loop.call_later(max(seconds, 0.0), lambda: self._spawn(self.reconcile(uid)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconcile_all(self, uids: Collection[str]) -> None:
        listed = list(uids)
        for start in range(0, len(listed), _CHUNK):
            await asyncio.gather(*(self.reconcile(uid) for uid in listed[start : start + _CHUNK]))

    async def _retry_waiting(self) -> None:
        while True:
            await self._room.wait()
            self._room.clear()
            await self._reconcile_all(self._inventory.unbound_uids())
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _resync(self) -> None:
        """What a restarted watch did not tell: objects that went while it was away."""
        while True:
            await asyncio.sleep(self._resync_seconds)
            known_uids, known_nodes = self._inventory.uids(), self._inventory.node_names()
            try:
                uids = await self._kubeapi.list_sandbox_uids()
                nodes = {str(raw["metadata"]["name"]) for raw in await self._kubeapi.list_nodes()}
            except errors.RequestFailed as error:
                _LOG.warning("not compared problem=%s", error)
                continue
            for uid in known_uids - uids:
                self._forget(uid)
            for name in known_nodes - nodes:
                self._inventory.forget_node(name)
            await self._reconcile_all(self._inventory.uids())
