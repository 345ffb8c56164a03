"""Pull images: a registry's streams become sealed layers, and nothing is visible before all is proved.

Bytes are hashed, unpacked and converted as they arrive, several layers at a time, the largest first. One fetch serves all who wait for it;
a layer that is here, or on its way for another image, is not fetched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing

from skerry_node.image import access, conversion, resolving
from skerry_node.image.config import ImageConfig
from skerry_node.image.errors import DamagedContent, ImageError
from skerry_node.image.flights import Flights
from skerry_node.image.progress import Meter, Progress
from skerry_node.image.reference import Reference
from skerry_node.image.registry import client
from skerry_node.image.registry import credentials as vault
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, NotInRegistry, RegistryError, RegistryLied
from skerry_node.image.registry.manifests import Descriptor, Manifest
from skerry_node.image.registry.repository import Repository
from skerry_node.image.registry.transfer import Transfer
from skerry_node.image.store import Blob, Image, Layer, Store

CONVERSIONS = max(2, min(4, os.cpu_count() or 2))
"""Layers at a time of one pull: each keeps a core busy. Every pull has its own, so that a slow registry does not hold up another's images."""
MAX_CONVERSIONS = 16
"""Layers at a time over all pulls: each has a process."""
_MAX_LANDINGS = 3
"""Layers that wait for the disk at a time: each holds a thread. They hold up no conversion."""


class Puller:
    """All pulls of one agent. Must be used inside one event loop; `close` when it ends."""

    def __init__(self, store: Store, registries: client.Client) -> None:
        self._store = store
        self._registries = registries
        self._pulls: Flights[Image] = Flights()
        self._layers: Flights[Layer] = Flights()
        self._meters: dict[object, Meter] = {}
        self._slots = asyncio.Semaphore(MAX_CONVERSIONS)
        self._landings = asyncio.Semaphore(_MAX_LANDINGS)
        self.on_end: Callable[[str, float, int], None] = lambda *_: None
        """Hears of each pull: `done` or the reason of its failure, seconds, bytes moved."""

    async def pull(
        self, reference: Reference, *, credentials: Iterable[Credential] = (), is_named: bool = False,
        watch: Callable[[Callable[[], Progress]], None] | None = None,
    ) -> Image:  # fmt: skip
        """Fetch *reference* anew, as its registry has it now. *watch* is given a function that tells how far it is.

        Every one of *credentials* that fits is tried, in order. Raises ImageError's subclasses, OSError; nothing of it is visible then.
        """
        kept = tuple(credentials)
        key = (reference, kept, is_named)
        meter = self._meters.setdefault(key, Meter(str(reference)))
        if watch is not None:
            watch(meter.read)
        try:
            return await self._pulls.join(key, lambda: self._pull_aloud(reference, kept, meter, is_named=is_named))
        finally:
            if key not in self._pulls:
                self._meters.pop(key, None)

    async def prove(self, image: Image, reference: Reference, *, credentials: Iterable[Credential] = (), is_named: bool = False) -> None:
        """Have the registry say that *credentials* open *reference*'s repository for *image*. Raises RegistryError's subclasses."""
        repository = await self._opened(reference, tuple(credentials), lambda repository: repository.has_manifest(image.digest), is_named=is_named)
        await asyncio.to_thread(access.remember, self._store, image.digest, reference, repository.told)

    async def close(self) -> None:
        """Close all connections."""
        await self._registries.close()

    async def _pull_aloud(self, reference: Reference, credentials: tuple[Credential, ...], meter: Meter, *, is_named: bool) -> Image:
        began, result = time.monotonic(), "Cancelled"
        try:
            image = await self._pull(reference, credentials, meter, is_named=is_named)
            result = "done"
        except Exception as error:
            result = error.reason if isinstance(error, ImageError) else "Failed"
            raise
        finally:
            self.on_end(result, time.monotonic() - began, meter.read().received_bytes)
        return image

    async def _pull(self, reference: Reference, credentials: tuple[Credential, ...], meter: Meter, *, is_named: bool) -> Image:
        found: list[resolving.Found] = []

        async def look(repository: Repository) -> None:
            found[:] = [await resolving.find(repository, reference)]

        repository = await self._opened(reference, credentials, look, is_named=is_named)
        image = await self._bring(repository, reference, found[0], meter)
        await asyncio.to_thread(access.remember, self._store, image.digest, reference, repository.told)
        return image

    async def _opened(
        self, reference: Reference, credentials: tuple[Credential, ...], question: Callable[[Repository], Awaitable[None]], *, is_named: bool,
    ) -> Repository:  # fmt: skip
        """Open the repository with the first credential for which *question* is answered."""
        own = vault.choose(credentials, reference.domain, reference.path)
        others = [each for each in credentials if each not in own]  # a mirror has its own
        for number, credential in enumerate(own or (None,)):
            told = others if credential is None else [credential, *others]
            repository = self._registries.open(reference, credentials=told, is_named=is_named)
            try:
                await question(repository)
            except (AccessDenied, NotInRegistry):
                if number + 1 >= len(own):
                    raise
            else:
                return repository
        raise AssertionError("nothing was tried")

    async def _bring(self, repository: Repository, reference: Reference, found: resolving.Found, meter: Meter) -> Image:
        manifest, fetched = found.manifest, found.fetched
        here = self._store.find(str(reference))
        if here is not None and (here.reference, here.digest) == (str(reference), fetched.digest):
            return here  # the tag stands for what it stood for
        raw_config = await self._read_config(repository, manifest.config)
        config = resolving.read_config(raw_config, manifest)
        meter.expect((each.digest, each.size_bytes) for each in manifest.layers)
        digests = [fetched.digest, manifest.config.digest, *(each.digest for each in manifest.layers)]
        with self._store.hold(config.diff_ids, blobs=digests):
            layers = await self._fetch_layers(repository, manifest, config, meter)
            image = Image(
                reference=str(reference), digest=fetched.digest, media_type=fetched.media_type, manifest_bytes=len(fetched.content),
                config_blob=_blob(manifest.config), config=config, layers=layers, is_local=False,
            )  # fmt: skip
            await asyncio.to_thread(self._show, image, fetched.content, raw_config)
        return image

    async def _read_config(self, repository: Repository, descriptor: Descriptor) -> bytes:
        """Read the config, from here when another image has it."""
        if self._store.blobs.size(descriptor.digest) == descriptor.size_bytes:
            with contextlib.suppress(ImageError):  # damaged, or removed this moment
                return self._store.blobs.read(descriptor.digest)
        return await repository.fetch_small(descriptor)

    def _show(self, image: Image, manifest: bytes, config: bytes) -> None:
        self._store.blobs.put(manifest)
        self._store.blobs.put(config)
        self._store.add(image)

    async def _fetch_layers(self, repository: Repository, manifest: Manifest, config: ImageConfig, meter: Meter) -> tuple[Layer, ...]:
        """Fetch the largest first, so that no core is left with a large one at the end. The first failure ends the others."""
        pairs = sorted(zip(manifest.layers, config.diff_ids, strict=True), key=lambda pair: -pair[0].size_bytes)
        own_slots = asyncio.Semaphore(CONVERSIONS)
        tasks: dict[tuple[Descriptor, str], asyncio.Task[Layer]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for pair in pairs:
                    if pair not in tasks:
                        tasks[pair] = group.create_task(self._fetch_layer(repository, *pair, meter, own_slots))
        except* Exception as failures:  # noqa: BLE001 - the group is opened, and its first error passed on
            raise _first(failures) from None
        ordered = zip(manifest.layers, config.diff_ids, strict=True)
        return tuple(dataclasses.replace(tasks[pair].result(), blob=_blob(pair[0])) for pair in ordered)

    async def _fetch_layer(self, repository: Repository, descriptor: Descriptor, diff_id: str, meter: Meter, own_slots: asyncio.Semaphore) -> Layer:
        found = self._store.find_layer(diff_id)
        keeps = self._store.keeps_blobs(is_local=False)
        if found is not None and (not keeps or self._store.blobs.has(descriptor.digest)):
            meter.done(descriptor.digest, was_here=True)
            return found

        async def work() -> Layer:
            return await self._convert(repository, descriptor, diff_id, meter, own_slots)

        result = await self._layers.join((diff_id, descriptor), work)
        meter.done(descriptor.digest)
        return result

    async def _convert(self, repository: Repository, descriptor: Descriptor, diff_id: str, meter: Meter, own_slots: asyncio.Semaphore) -> Layer:
        """Fetch and convert, from other hosts again when those who sent it lied."""
        promise = conversion.Promise(digest=descriptor.digest, size_bytes=descriptor.size_bytes, diff_id=diff_id, media_type=descriptor.media_type)
        liars: frozenset[str] = frozenset()
        while True:
            transfer = Transfer(repository, descriptor, skipped=liars)
            try:
                return await self._stream(transfer, promise, meter, own_slots)
            except DamagedContent as error:
                liars |= frozenset(transfer.hosts)
                if not any(site.endpoint.host not in liars for site in repository.sites):
                    raise RegistryLied(f"{', '.join(sorted(liars))}: {error}") from error
                meter.restarted(descriptor.digest)

    async def _stream(self, transfer: Transfer, promise: conversion.Promise, meter: Meter, own_slots: asyncio.Semaphore) -> Layer:
        async with contextlib.AsyncExitStack() as stack:
            busy = await stack.enter_async_context(contextlib.AsyncExitStack())
            await busy.enter_async_context(own_slots)
            await busy.enter_async_context(self._slots)
            kept = None
            if self._store.keeps_blobs(is_local=False):
                kept = stack.enter_context(self._store.blobs.add(promise.digest, promise.size_bytes))
            converting = await conversion.start(self._store, promise)
            stack.push_async_callback(converting.abort)
            async with aclosing(transfer.pieces()) as pieces:
                async for piece in pieces:
                    meter.received(promise.digest, len(piece))
                    if kept is not None:
                        kept.write(piece)
                    await converting.feed(piece)
            sealed = await converting.end()
            await busy.aclose()  # what is left is the disk's: the next layer may begin
            async with self._landings:
                layer = await converting.land(sealed)
                if kept is not None:
                    await asyncio.to_thread(kept.commit)
            return layer


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Pick the error to tell of: what others were cancelled for."""
    flat = list(_flatten(group))
    return next((each for each in flat if isinstance(each, RegistryError)), flat[0])


def _flatten(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _flatten(each)
    else:
        yield error


def _blob(descriptor: Descriptor) -> Blob:
    return Blob(digest=descriptor.digest, size_bytes=descriptor.size_bytes, media_type=descriptor.media_type)
