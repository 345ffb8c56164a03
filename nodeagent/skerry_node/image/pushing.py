"""Push an image: blobs that the registry lacks, from here or from where they came; then the manifest, byte for byte, so that the digest stays.

Source: OCI distribution-spec 1.1, pushing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import aiohttp
from yarl import URL

from skerry_node.image.record import Blob, Image
from skerry_node.image.reference import Reference
from skerry_node.image.registry import transport
from skerry_node.image.registry.errors import NotInRegistry, RegistryError, RegistryLied, RegistryUnavailable, quote
from skerry_node.image.registry.hosts import PUSH
from skerry_node.image.registry.manifests import Descriptor
from skerry_node.image.registry.repository import Repository, Site, delay, retried
from skerry_node.image.registry.transfer import Transfer
from skerry_node.image.store import Store

CHUNK_BYTES = 8 << 20
"""What one request carries, and so what a broken one costs; it has 40 s. Up to it a blob goes in one piece. S3 wants 5 MiB at least."""
_OCTETS = {"Content-Type": "application/octet-stream"}
_Answer = TypeVar("_Answer")
Bring = Callable[[Blob], Awaitable[None]]
_UPLOADS = 3
_RESTARTS = 3
"""How often a blob is begun anew because the registry forgot its upload."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to a blob: `exists`, `mounted`, `uploading` with the bytes that are there, `pushed`."""

    digest: str
    what: str
    done_bytes: int
    size_bytes: int


async def push(store: Store, image: Image, repository: Repository, target: Reference, *, bring: Bring, emit: Callable[[Step], None]) -> str:
    """Put *image*, whose blobs the caller holds, into *repository* under *target*'s tag or digest; returns the digest there.

    *bring* has a blob in the store that is not there. Raises RegistryError's subclasses, ImageError, OSError.
    """
    sites = [site for site in repository.sites if PUSH in site.endpoint.capabilities and not site.endpoint.is_mirror]
    if not sites:
        raise RegistryError(f"no host of {target.domain} takes pushes; add push to the capabilities in its hosts.toml")
    pusher = _Pusher(store, sites[-1], target, _siblings(store, image, target), bring, emit)
    slots = asyncio.Semaphore(_UPLOADS)

    async def one(blob: Blob) -> None:
        async with slots:
            await pusher.ensure_blob(blob)

    blobs = {blob.digest: blob for blob in (*(layer.blob for layer in image.layers), image.config_blob)}
    try:
        async with asyncio.TaskGroup() as group:
            for blob in sorted(blobs.values(), key=lambda each: -each.size_bytes):
                group.create_task(one(blob))
    except* Exception as failures:  # noqa: BLE001 - the group is opened, and its first error passed on
        raise _first(failures) from None
    await pusher.put_manifest(image)
    return image.digest


async def fetch(store: Store, blob: Blob, origin: Repository) -> None:
    """Have the bytes of *blob*, which the caller holds, in the store again. Raises RegistryError's subclasses, DamagedContent, OSError."""
    transfer = Transfer(origin, Descriptor(digest=blob.digest, size_bytes=blob.size_bytes, media_type=blob.media_type))
    with store.blobs.add(blob.digest, blob.size_bytes) as writer:
        async with contextlib.aclosing(transfer.pieces()) as pieces:
            async for piece in pieces:
                writer.write(piece)
        await asyncio.to_thread(writer.commit)


def _siblings(store: Store, image: Image, target: Reference) -> dict[str, str]:
    """Repositories of the same registry that have the blobs, as far as we know: from there the registry can take them itself."""
    found: dict[str, str] = {}
    for other in (image, *store.images):
        domain, _, path = other.reference.partition("/")
        path = path.partition("@")[0].rpartition(":")[0] or path.partition("@")[0]
        if domain == target.domain and path != target.path and not other.is_local:
            for blob in other.blobs:
                found.setdefault(blob.digest, path)
    return found


class _Pusher:
    """One push to one site."""

    def __init__(self, store: Store, site: Site, target: Reference, siblings: dict[str, str], bring: Bring, emit: Callable[[Step], None]) -> None:
        self._store, self._site, self._target = store, site, target
        self._siblings, self._bring, self._emit = siblings, bring, emit

    async def ensure_blob(self, blob: Blob) -> None:
        """Have *blob* in the repository."""
        if await self._has(blob):
            self._emit(Step(blob.digest, "exists", blob.size_bytes, blob.size_bytes))
            return
        for restart in range(_RESTARTS):
            place = await self._retried(lambda: self._begin(blob))
            if place is None:
                self._emit(Step(blob.digest, "mounted", blob.size_bytes, blob.size_bytes))
                return
            try:
                await self._upload(blob, place)
            except NotInRegistry:
                if restart + 1 == _RESTARTS:
                    raise
            else:
                self._emit(Step(blob.digest, "pushed", blob.size_bytes, blob.size_bytes))
                return

    async def put_manifest(self, image: Image) -> None:
        """Make the image visible there."""
        content = await asyncio.to_thread(self._store.blobs.read, image.digest)
        name = self._target.tag or image.digest

        async def put() -> str | None:
            async with self._site.open("PUT", f"manifests/{name}", headers={"Content-Type": image.media_type}, body=content) as response:
                return response.headers.get("Docker-Content-Digest")

        told = await self._retried(put)
        if told is not None and told != image.digest:
            raise RegistryLied(f"{self._site.endpoint.host} was given {image.digest} and calls it {quote(told)}")

    async def _has(self, blob: Blob) -> bool:
        async def look() -> bool:
            async with self._site.open("HEAD", f"blobs/{blob.digest}"):
                return True

        try:
            return await self._retried(look)
        except NotInRegistry:
            return False

    async def _begin(self, blob: Blob) -> URL | None:
        """The place of a new upload; None when the registry took the blob from another repository."""
        sibling = self._siblings.get(blob.digest)
        query = {"mount": blob.digest, "from": sibling} if sibling is not None else None
        async with self._site.open("POST", "blobs/uploads/", query=query) as response:
            return None if response.status == 201 else self._place(response)

    async def _upload(self, blob: Blob, place: URL) -> None:
        """Send the blob in pieces, each again while the registry is merely unavailable. Raises NotInRegistry when the upload is forgotten."""
        if not self._store.blobs.has(blob.digest):
            await self._bring(blob)
        offset = failures = 0
        with self._store.blobs.open(blob.digest) as file:
            while True:
                try:
                    if (offset == 0 and blob.size_bytes <= CHUNK_BYTES) or offset >= blob.size_bytes:
                        await self._close(blob, place, await _read(file, offset))
                        return
                    place, offset = await self._append(place, offset, await _read(file, offset))
                except RegistryUnavailable as error:
                    wait = delay(self._site.timing, failures, error.retry_after_seconds)
                    failures += 1
                    if failures >= self._site.timing.attempts or wait is None:
                        raise
                    await asyncio.sleep(wait)
                    if await self._has(blob):  # only the answer was lost
                        return
                    place, offset = await self._ask(place)
                else:
                    failures = 0
                    self._emit(Step(blob.digest, "uploading", offset, blob.size_bytes))

    async def _append(self, place: URL, offset: int, piece: bytes) -> tuple[URL, int]:
        """Send what comes at *offset*; returns where the next piece goes."""
        headers = {**_OCTETS, "Content-Range": f"{offset}-{offset + len(piece) - 1}"}
        async with self._site.open_url("PATCH", place, headers=headers, body=piece) as response:
            return self._place(response), offset + len(piece)

    async def _close(self, blob: Blob, place: URL, piece: bytes) -> None:
        """Send the last piece, or nothing, and the digest that all must have."""
        async with self._site.open_url("PUT", place.update_query({"digest": blob.digest}), headers=_OCTETS, body=piece):
            pass

    async def _ask(self, place: URL) -> tuple[URL, int]:
        """Where an upload stands that broke. Raises NotInRegistry when the registry has forgotten it."""
        async with self._site.open_url("GET", place) as response:
            first, dash, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
            known = int(last) + 1 if dash and first == "0" and last.isdigit() and len(last) < 16 else 0
            return self._place(response), 0 if last == "0" else known

    def _place(self, response: aiohttp.ClientResponse) -> URL:
        """Where the registry says that the upload goes on; relative to where it was asked."""
        return transport.follow(response.url, response.headers.get("Location", ""))

    async def _retried(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer:
        return await retried(question, timing=self._site.timing, attempts=self._site.timing.attempts)


async def _read(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return await asyncio.to_thread(file.read, CHUNK_BYTES)


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found
