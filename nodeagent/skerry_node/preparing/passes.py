"""Which SandboxImages are meant for this node, how far it is with each, and saying so in its SandboxNode.

Level-triggered: each pass compares every object with what is here. What was built is remembered by the API object alone, so that the next agent does
not build it again; a pull or a build that an agent's death cut off is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from skerry_api import image as api
from skerry_api.node import PreparedImage
from skerry_node import errors
from skerry_node.build.errors import BuildError
from skerry_node.building import Builds
from skerry_node.cluster.imageobjects import ImageObjects, find_prepared
from skerry_node.image import describing, reference
from skerry_node.image.errors import ImageError, InvalidReference
from skerry_node.image.progress import Progress
from skerry_node.image.record import Image
from skerry_node.image.store import Store
from skerry_node.imaging import Imaging
from skerry_node.preparing.bringing import Bringing
from skerry_node.sources import Source

MAX_PREPARED, _MAX_MESSAGE, _MAX_INSTRUCTION = 200, 1000, 500
_RESYNC_SECONDS, _PROGRESS_SECONDS = 30.0, 5.0
_FIRST_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 10.0, 300.0
_LOG = logging.getLogger("skerry.preparing")


@dataclass(slots=True)
class _Work:
    """What is done for one object at one generation of its spec."""

    generation: int
    task: asyncio.Task[None] | None = None
    failures: int = 0
    retry_at: float = 0.0
    read_progress: Callable[[], Progress] | None = None

    def watch(self, read: Callable[[], Progress]) -> None:
        """Have *read* tell how far a pull is."""
        self.read_progress = read


class Preparing:
    """Must be used inside one event loop. *tell* has the node's object written soon."""

    def __init__(
        self, objects: ImageObjects, store: Store, images: Imaging, builds: Builds, source: Source, *, node_name: str, tell: Callable[[], None]
    ) -> None:
        self._objects, self._store = objects, store
        self._bringing = Bringing(objects, store, images, builds, source)
        self._node_name = node_name
        self._tell = tell
        self._news = asyncio.Event()
        self._works: dict[str, _Work] = {}
        self._entries: dict[str, PreparedImage] | None = None

    @property
    def prepared(self) -> tuple[PreparedImage, ...] | None:
        """What to say in the node's object; None while what it says is not known."""
        if self._entries is None:
            return None
        return tuple(self._entries[uid] for uid in sorted(self._entries))[:MAX_PREPARED]

    def in_use(self) -> frozenset[str]:
        """References and digests that an object wants kept here."""
        entries = self._entries or {}
        return frozenset(
            {image.image for uid, image in self._objects.known.items() if uid in entries}
            | {entry.digest for entry in entries.values() if entry.digest}
        )

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._objects.follow(self._news.set))
                tasks.create_task(self._pass_for_ever())
        finally:
            for work in self._works.values():
                if work.task is not None:
                    work.task.cancel()

    async def _pass_for_ever(self) -> None:
        await self._news.wait()  # nothing is concluded before a first complete list
        while True:
            self._news.clear()
            try:
                await self._pass()
            except errors.SourceUnavailable as error:
                _LOG.warning("images not looked at problem=%s", error)
            except ImageError as error:
                _LOG.warning("an image cannot be told of problem=%s", error)
            busy = any(work.task is not None for work in self._works.values())
            waits = [work.retry_at - time.monotonic() for work in self._works.values() if work.task is None and work.failures]
            seconds = min([_PROGRESS_SECONDS if busy else _RESYNC_SECONDS, *(max(wait, 0.1) for wait in waits)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._news.wait()

    async def _pass(self) -> None:
        node = await self._objects.read_node()
        if node is None:
            return
        entries = {each.uid: each for each in find_prepared(node)} if self._entries is None else self._entries
        before, labels = self.prepared, dict(node.labels)
        wanted = {uid: image for uid, image in self._objects.known.items() if not image.is_deleted and self._is_mine(image, labels)}
        self._entries = {uid: entry for uid, entry in entries.items() if uid in wanted}
        for uid in set(self._works) - set(wanted):
            self._drop(uid)
        for image in wanted.values():
            self._look(image)
        if before != self.prepared:
            self._tell()
        for image in wanted.values():
            await self._tell_layers(image)

    def _is_mine(self, image: api.SandboxImage, labels: dict[str, str]) -> bool:
        if image.build is not None:
            return image.status.node_name == self._node_name
        return api.is_selected(image.prepull, labels)

    def _look(self, image: api.SandboxImage) -> None:
        """Begin what is missing, and say how it stands."""
        assert self._entries is not None
        work = self._works.get(image.uid)
        if work is not None and work.generation != image.generation:
            self._drop(image.uid)
            work = None
        if work is None:
            work = self._works[image.uid] = _Work(image.generation)
        if work.task is not None:
            if work.read_progress is not None:
                self._say(image, "Pulling", message=work.read_progress().describe())
            return
        if self._is_done(image) or time.monotonic() < work.retry_at:
            return
        self._say(image, "Building" if image.build is not None else "Pulling")
        job = self._bringing.build(image) if image.build is not None else self._bringing.pull(image, watch=work.watch)
        work.task = asyncio.create_task(self._carry_out(image, work, job))

    def _is_done(self, image: api.SandboxImage) -> bool:
        entry = (self._entries or {}).get(image.uid)
        if entry is None or not entry.is_here or entry.generation != image.generation:
            return False
        found = self._store.find(image.image)
        return found is not None and (found.digest == entry.digest or image.build is not None)  # two builds of one tag: the later one stands

    async def _carry_out(self, image: api.SandboxImage, work: _Work, job: Coroutine[Any, Any, Image]) -> None:
        try:
            found = await job
        except (ImageError, BuildError, errors.SourceUnavailable, OSError) as error:
            work.failures += 1
            work.retry_at = time.monotonic() + min(_FIRST_BACKOFF_SECONDS * 2.0 ** (work.failures - 1), _MAX_BACKOFF_SECONDS)
            self._say(image, "Failed", message=str(error))
            _LOG.warning("image not prepared object=%s/%s problem=%s", image.namespace, image.name, error)
        else:
            work.failures, work.retry_at = 0, 0.0
            self._say(image, "Built" if image.build is not None else "Pulled", found=found)
            _LOG.info("image prepared object=%s/%s digest=%s", image.namespace, image.name, found.digest)
        finally:
            work.task, work.read_progress = None, None
            self._news.set()
        self._tell()

    async def _tell_layers(self, image: api.SandboxImage) -> None:
        """Say what the image is made of, where the operator has named this node for it."""
        status = image.status
        if status.node_name != self._node_name or status.digest is None or status.layers_digest == status.digest:
            return
        found = next((each for each in self._store.images if each.digest == status.digest), None)
        if found is None:
            return
        instructions = await asyncio.to_thread(describing.layer_instructions, self._store, found)
        layers = [
            {"digest": layer.blob.digest, "sizeBytes": layer.size_bytes, "instruction": text[:_MAX_INSTRUCTION]}
            for layer, text in zip(found.layers, instructions, strict=True)
        ]
        await self._objects.write_layers(image, status.digest, layers)

    def _say(self, image: api.SandboxImage, state: str, *, found: Image | None = None, message: str = "") -> None:
        if self._entries is None or image.uid not in self._works:
            return
        entry = PreparedImage(uid=image.uid, object=f"{image.namespace}/{image.name}", generation=image.generation, state=state)
        if found is not None:
            entry = dataclasses.replace(entry, digest=found.digest, size_bytes=found.size_bytes)
        self._entries[image.uid] = dataclasses.replace(entry, message=message[:_MAX_MESSAGE])

    def _drop(self, uid: str) -> None:
        work = self._works.pop(uid, None)
        if work is not None and work.task is not None:
            work.task.cancel()


def _is_reference(text: str) -> bool:
    try:
        reference.parse(text)
    except InvalidReference:
        return False
    return True
