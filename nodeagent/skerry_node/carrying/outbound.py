"""Images on their way out: pushes, and fetching again what is not kept here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

from skerry_node.image import pushing, saving
from skerry_node.image import reference as references
from skerry_node.image.record import Blob, Image
from skerry_node.image.registry import credentials as vault
from skerry_node.image.registry.client import Client
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import RegistryError
from skerry_node.image.store import Store

_REPORT_SECONDS = 0.2


class Outbound:
    """Must be used inside one event loop. Whoever asks is root of this machine: registries may have private addresses."""

    def __init__(self, store: Store, registries: Client, *, read_node_credentials: Callable[[], tuple[Credential, ...]]) -> None:
        self._store = store
        self._registries = registries
        self._read_node_credentials = read_node_credentials

    async def ensure_blobs(self, images: Sequence[Image], *, docker_config: bytes | None = None) -> None:
        """Have every blob of *images*, which the caller holds, in the store. Raises RegistryError's subclasses, DamagedContent, OSError."""
        credentials = self._credentials(docker_config)
        for image, blob in saving.find_missing(self._store, images):
            await self._bring(image, blob, credentials, target=None)

    async def push(self, image: Image, target: str, *, docker_config: bytes | None) -> AsyncGenerator[Mapping[str, Any], None]:
        """Push *image*, which the caller holds, as *target*: steps as they come, at last {"image": ...}. Leaving the loop ends it.

        Raises InvalidReference, RegistryError's subclasses, DamagedContent, OSError.
        """
        wanted = references.parse(target)
        credentials = self._credentials(docker_config)
        repository = self._registries.open(wanted, credentials=credentials, is_named=True, actions="pull,push", needs="push")
        steps: dict[str, pushing.Step] = {}

        def emit(step: pushing.Step) -> None:
            steps[step.digest] = step

        async def bring(blob: Blob) -> None:
            await self._bring(image, blob, credentials, target=str(wanted))

        task = asyncio.create_task(pushing.push(self._store, image, repository, wanted, bring=bring, emit=emit))
        try:
            while not (await asyncio.wait([task], timeout=_REPORT_SECONDS))[0]:
                yield _render(steps.values())
            digest = await task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        yield _render(steps.values())
        yield {"image": {"reference": str(wanted), "digest": digest}}

    async def _bring(self, image: Image, blob: Blob, credentials: tuple[Credential, ...], *, target: str | None) -> None:
        """Fetch *blob* from where the image was pulled; a name that was only given here has no such place."""
        names = [each.reference for each in self._store.images if each.digest == image.digest and not each.is_local and each.reference != target]
        problem: RegistryError | None = None
        for name in names:
            origin = references.parse(name)
            try:
                await pushing.fetch(self._store, blob, self._registries.open(origin, credentials=credentials, is_named=True))
            except RegistryError as error:
                problem = error
            else:
                return
        hint = "start the agent with --keep-blobs all and bring the image in again"
        raise RegistryError(f"the blob {blob.digest} of {image.reference} is not kept here, and no registry gives it; {hint}") from problem

    def _credentials(self, docker_config: bytes | None) -> tuple[Credential, ...]:
        own = vault.parse(docker_config, source="the given Docker config") if docker_config is not None else ()
        return (*own, *self._read_node_credentials())


def _render(steps: Iterable[pushing.Step]) -> dict[str, Any]:
    blobs = [{"digest": step.digest, "state": step.what, "doneBytes": step.done_bytes, "sizeBytes": step.size_bytes} for step in steps]
    return {"progress": {"blobs": blobs}}
