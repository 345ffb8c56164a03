"""Builds in the agent: each RUN in a sandbox of ours, with every defence of one, that no manifest asks for.

Its uid is kept from the orphans' reaping only by this agent's memory: an agent that dies takes its builds with it, and the next one reaps what
they left. Removal is the loop's plan against an empty want, as for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from skerry_api import sandbox as api
from skerry_api.egress import OPEN
from skerry_api.variables import EnvVar
from skerry_node import act, launching, lives, logfiles, means, variables
from skerry_node.build import cache, engine, progress, running
from skerry_node.build.errors import BuildError
from skerry_node.cgroup import stats
from skerry_node.image import reference
from skerry_node.image.errors import ImageNotFound
from skerry_node.image.record import Image
from skerry_node.image.store import Store
from skerry_node.keeper import client, records
from skerry_node.model import Life, Limits
from skerry_node.rootfs import scratch

_LOG = logging.getLogger("skerry.build")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LIMITS = Limits(cpu_millicores=None, memory_bytes=4 << 30, pids=4096)
RUN_SECONDS = 3600.0
MAX_BUILDS = 2
"""Builds at once on a node; more wait."""
FindImage = Callable[[str], Awaitable[Image]]
_LOOK_SECONDS, _LOST_SECONDS = 1.0, 10.0


class Guests:
    """Sandboxes that live for a build: no orphans, and no business of the loop's while they do."""

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Event] = {}

    @property
    def uids(self) -> frozenset[str]:
        """Those that live."""
        return frozenset(self._ends)

    def add(self, uid: str) -> asyncio.Event:
        """Take *uid* under care; the event tells of its first process' end."""
        return self._ends.setdefault(uid, asyncio.Event())

    def drop(self, uid: str) -> None:
        """Leave *uid* to the loop."""
        self._ends.pop(uid, None)

    def on_exit(self, uid: str) -> bool:
        """Take note of an end; whether it is one of ours."""
        event = self._ends.get(uid)
        if event is not None:
            event.set()
        return event is not None


class Builds:
    """Every build of this node. *poke* has the loop look at a uid: one that nobody wants is removed; *poke_all* at every sandbox."""

    def __init__(
        self, *, hands: means.Hands, store: Store, guests: Guests, poke: Callable[[str], None], poke_all: Callable[[], None], directory: str
    ) -> None:
        self._hands, self._store = hands, store
        self._poke_all = poke_all
        self._directory = directory
        self._slots = asyncio.Semaphore(MAX_BUILDS)
        self._runner = Runner(hands=hands, guests=guests, poke=poke)
        self._cache = cache.Cache(os.path.join(directory, "cache"), store)

    @property
    def directory(self) -> str:
        """Where anonymous files of a build lie: contexts, layers under way."""
        return self._directory

    async def build(self, request: engine.Request, emit: progress.Emit, *, find_image: FindImage | None = None) -> Image:
        """The image that *request* asks for. Raises BuildError, ImageError, OSError.

        *find_image* gives what FROM and --from name; without one they are what the operator of this machine may pull.
        """
        machine = platform.machine()
        tools = engine.Tools(
            store=self._store, cache=self._cache, runner=self._runner, find_image=find_image or self._find_image, directory=self._directory,
            architecture=_ARCHITECTURES.get(machine, machine),
        )  # fmt: skip
        async with self._slots:
            began = time.monotonic()
            try:
                image = await engine.build(request, tools, emit)
            finally:
                await self._runner.forget_gone(self._store)
        _LOG.info("built reference=%s digest=%s layers=%d seconds=%.3f", image.reference, image.digest, len(image.layers), time.monotonic() - began)
        self._poke_all()  # who waits for an image of this name
        return image

    async def _find_image(self, name: str) -> Image:
        found = self._store.find(name)
        if found is None:
            images = self._hands.images
            wanted = reference.parse(name)
            if wanted.domain == "localhost":
                raise ImageNotFound(f"no image {name[:200]!r} here; `skerry image ls` shows those there are")
            found = await images.puller.pull(wanted, credentials=images.read_node_credentials(), is_named=True)
        if self._hands.checks is not None:
            await self._hands.checks.ensure(found)
        return found


class Runner:
    """The agent's build.running.Runner."""

    def __init__(self, *, hands: means.Hands, guests: Guests, poke: Callable[[str], None]) -> None:
        self._hands, self._guests, self._poke = hands, guests, poke
        self._mounted: dict[str, str] = {}

    async def forget_gone(self, store: Store) -> None:
        """Have the keeper unmount layers that a RUN had below it and that the store has let go of since: they would keep their disk space."""
        for diff_id in [diff_id for diff_id in self._mounted if store.has_layer(diff_id) is None]:
            name = self._mounted.pop(diff_id)
            with contextlib.suppress(client.KeeperLost):  # the next one mounts only what it is asked for
                await act.forget_layer(self._hands, name)

    @asynccontextmanager
    async def run(self, order: running.Order, output: running.Output) -> AsyncGenerator[running.Finished, None]:
        """Start, stream, wait; the writable layer is there until the context ends."""
        uid = str(uuid.uuid4())
        ended = self._guests.add(uid)
        upper_fd = -1
        try:
            try:
                id_base = await self._launch(uid, order)
                upper_fd = os.open(f"{uid}/upper", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._hands.view.scratch_fd)
                exit_code, reason = await self._follow(uid, ended, output)
            except client.Refused as error:
                raise BuildError(error.problem) from error
            except client.KeeperLost as error:
                raise BuildError(f"the keeper was lost: {error}; build again") from error
            yield running.Finished(exit_code=exit_code, reason=reason, upper_fd=upper_fd, id_base=id_base)
        finally:
            if upper_fd >= 0:
                os.close(upper_fd)
            self._guests.drop(uid)
            self._poke(uid)

    async def _launch(self, uid: str, order: running.Order) -> int:
        """Everything that the plan's steps do for a sandbox, in their order; returns its first host id."""
        hands, view = self._hands, self._hands.view
        if hands.checks is not None:
            await hands.checks.ensure(order.image)
        os.mkdir(uid, 0o700, dir_fd=view.runtime_fd)
        lives.write(view.runtime_fd, uid, Life(started_ns=time.time_ns()), name="build/run")
        slot = view.leases.acquire(uid).slot
        if order.has_network:
            view.firewall.ensure(slot, OPEN)
        view.groups.open(uid).ensure(LIMITS)
        id_base, _ = view.leases.id_range(slot)
        self._mounted.update((layer.diff_id, layer.path) for layer in order.image.layers)
        scratch.ensure_writable(hands.settings.scratch_dir, uid, owner=id_base)
        await hands.keeper.wait()
        sandbox = _sandbox(uid, order)
        env = variables.plain(sandbox)
        await hands.keeper.launch(launching.order(sandbox, order.image, hands, slot=slot, attempt=0, dressed=False, variables=env))
        return id_base

    async def _follow(self, uid: str, ended: asyncio.Event, output: running.Output) -> tuple[int, str]:
        """Pass the output on until the end; the exit code, and why where it was not the program's own doing."""
        waiting = asyncio.create_task(self._wait(uid, ended))
        try:
            directory = os.path.join(self._hands.settings.logs_dir, uid)
            lines = logfiles.follow(directory, has_ended=waiting.done, joins=True)
            async with contextlib.aclosing(lines):
                async for batch in lines:
                    for line in batch:
                        await output(line.stream, line.data)
            return await waiting
        finally:
            waiting.cancel()

    async def _wait(self, uid: str, ended: asyncio.Event) -> tuple[int, str]:
        view = self._hands.view
        deadline, lost_since = time.monotonic() + RUN_SECONDS, None
        while not records.has_exit(view.runtime_fd, uid, attempt=0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):  # wait_for of Python 3.11 may swallow a cancellation
                    await ended.wait()
            now = time.monotonic()
            if now > deadline:
                return 124, f"it ran for more than {RUN_SECONDS:g} s"
            record = records.read_process(view.runtime_fd, uid)
            is_alive = record is not None and records.read_start_ticks(record.pid) == record.start_ticks
            lost_since = None if is_alive else lost_since or now
            if lost_since is not None and now - lost_since > _LOST_SECONDS:
                raise BuildError("how the program ended is not known: the keeper was lost meanwhile; build again")
            if ended.is_set():
                ended.clear()
                await asyncio.sleep(0)
        end = records.read_exit(view.runtime_fd, uid)
        if end is None or end.status is None:
            raise BuildError("how the program ended is not known; build again")
        code = os.waitstatus_to_exitcode(end.status)
        reason = self._reason(uid)
        return (code, reason) if code >= 0 else (128 - code, reason or f"killed by signal {-code}")

    def _reason(self, uid: str) -> str:
        with contextlib.suppress(OSError):
            if stats.read_stats(self._hands.view.groups.open(uid)).oom_kills:
                return f"out of memory: a RUN may use {(LIMITS.memory_bytes or 0) >> 20} MiB"
        return ""


def _sandbox(uid: str, order: running.Order) -> api.Sandbox:
    """The sandbox that *order* comes to, as if a manifest had asked for it."""
    spec = api.SandboxSpec(
        image=order.image.reference,
        command=order.argv,
        env=tuple(EnvVar(name, value) for name, _, value in (entry.partition("=") for entry in order.env)),
        network=api.NetworkSpec(api.NetworkMode.BRIDGE if order.has_network else api.NetworkMode.NONE),
    )
    return api.Sandbox(metadata=api.Metadata(name="build", namespace="skerry-build", uid=uid), spec=spec)
