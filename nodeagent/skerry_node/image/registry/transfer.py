"""A blob as a stream that goes on where it broke: by range, at the same host or the next, until its promised size is there.

Digests are proved by whoever takes the bytes in. Here are bounds: never a byte more than promised, never waiting on a host that sends nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator

import aiohttp

from skerry_node.image.registry.errors import RegistryError, RegistryLied, RegistryUnavailable, quote
from skerry_node.image.registry.hosts import PULL
from skerry_node.image.registry.manifests import Descriptor
from skerry_node.image.registry.repository import Repository, Site, combine, delay

_RANGE = re.compile(r"bytes ([0-9]{1,20})-([0-9]{1,20})/([0-9]{1,20}|\*)")
_FORGIVING_BYTES = 4 << 20
"""So much more of the blob, and earlier breaks are forgotten: a large blob may break often, but only while it comes."""


class Transfer:
    """One blob on its way. *skipped* hosts, by name, are not asked: they have lied about it."""

    def __init__(self, repository: Repository, descriptor: Descriptor, *, skipped: frozenset[str] = frozenset()) -> None:
        self._descriptor = descriptor
        self._timing = repository.timing
        self._repository = repository.name
        self._sites = [site for site in repository.sites if PULL in site.endpoint.capabilities and site.endpoint.host not in skipped]
        self._offset = 0
        self._breaks = 0
        self._forgiven_at = 0
        self.hosts: list[str] = []
        """Who has sent a part of it, for the day it proves wrong."""

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The content in order, once. Raises RegistryError's subclasses; then what came is worth nothing."""
        failures: list[RegistryError] = []
        for number, site in enumerate(self._sites):
            self._breaks = 0
            attempts = self._timing.attempts if number + 1 == len(self._sites) else 2
            try:
                while True:
                    try:
                        async for piece in self._read(site):
                            yield piece
                    except RegistryUnavailable as error:
                        await self._pause(error, attempts)
                    else:
                        return
            except RegistryError as error:
                failures.append(error)
        raise combine(failures, self._repository)

    async def _pause(self, error: RegistryUnavailable, attempts: int) -> None:
        if self._offset - self._forgiven_at >= _FORGIVING_BYTES:
            self._breaks, self._forgiven_at = 0, self._offset
        wait = delay(self._timing, self._breaks, error.retry_after_seconds)
        self._breaks += 1
        if self._breaks >= attempts or wait is None:
            raise error
        await asyncio.sleep(wait)

    async def _read(self, site: Site) -> AsyncGenerator[bytes]:
        size, host = self._descriptor.size_bytes, site.endpoint.host
        headers = {"Range": f"bytes={self._offset}-"} if self._offset else {}
        async with site.open("GET", f"blobs/{self._descriptor.digest}", headers=headers) as response:
            skip = self._check(response, host)
            if host not in self.hosts:
                self.hosts.append(host)
            clock = _Stall(self._timing.stall_seconds, self._timing.stall_bytes, host)
            while piece := await clock.read(response.content):
                if skip:  # the host knows no ranges, and begins anew
                    piece, skip = piece[skip:], max(skip - len(piece), 0)
                if self._offset + len(piece) > size:
                    raise RegistryLied(f"{host} sends more than the {size} bytes of {self._descriptor.digest}")
                if piece:
                    self._offset += len(piece)
                    yield piece
        if self._offset < size:
            raise RegistryUnavailable(f"{host} breaks off after {self._offset} of {size} bytes of {self._descriptor.digest}")

    def _check(self, response: aiohttp.ClientResponse, host: str) -> int:
        """How many bytes to leave out. Raises RegistryLied when the answer is not what was asked for."""
        size = self._descriptor.size_bytes
        start, length = 0, response.content_length
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self._offset or found[3] not in {str(size), "*"} or int(found[2]) >= size:
                told = quote(response.headers.get("Content-Range", "nothing"))
                raise RegistryLied(f"{host} was asked for {self._descriptor.digest} from byte {self._offset} and sends {told}")
            start = self._offset
        elif response.status != 200:
            raise RegistryLied(f"{host} answers a request for a blob with {response.status}")
        if length is not None and start + length > size:
            raise RegistryLied(f"{host} announces {start + length} bytes for {self._descriptor.digest}, which has {size}")
        return self._offset - start


class _Stall:
    """Notices a host that sends nothing, or next to nothing. Only waiting counts, not what is done with the bytes."""

    def __init__(self, seconds: float, least_bytes: int, host: str) -> None:
        self._seconds, self._least_bytes, self._host = seconds, least_bytes, host
        self._waited, self._received = 0.0, 0

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """The next bytes; none at the end. Raises RegistryUnavailable."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds - self._waited):
                piece = await content.readany()
        except TimeoutError as error:
            raise RegistryUnavailable(f"{self._host} sent {self._received} bytes in {self._seconds:g} s: it stalls") from error
        self._waited += time.monotonic() - began
        self._received += len(piece)
        if self._received >= self._least_bytes:
            self._waited, self._received = 0.0, 0
        return piece
