"""One repository, wherever it is served: manifests by tag and digest, blobs as streams. Mirrors are asked first and fail over.

Source: OCI distribution-spec 1.1, pulling.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import aiohttp
from yarl import URL

from skerry_node.image.registry import manifests, transport
from skerry_node.image.registry.auth import Gate
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.registry.errors import AccessDenied, RegistryError, RegistryLied, RegistryUnavailable, quote
from skerry_node.image.registry.hosts import PULL, RESOLVE, Endpoint

_Answer = TypeVar("_Answer")
_MAX_ANSWERS = 2
"""Tries to get in for one request: one with a fresh token, one more where the first had just expired."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest byte for byte, with the digest that was proved, or found where a tag was asked for."""

    content: bytes
    digest: str
    media_type: str


class Site:
    """The repository *name* at one endpoint."""

    def __init__(self, line: transport.Transport, endpoint: Endpoint, name: str, *, credential: Credential | None, actions: str) -> None:
        self.endpoint = endpoint
        self.timing = line.timing
        self._line = line
        self._gate = Gate(line, endpoint, name, credential=credential, actions=actions)
        base = endpoint.url.path.rstrip("/")
        if not endpoint.overrides_path and not base.endswith("/v2"):
            base += "/v2"
        self._base = endpoint.url.with_path(f"{base}/{name}")

    @property
    def told(self) -> Credential | None:
        """The credential, if it was needed."""
        return self._gate.told

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """The answer to a request below the repository, its status below 300, its body to be read. Raises RegistryError's subclasses."""
        url = self._base.with_path(f"{self._base.path}/{path}").with_query(query)
        if self.endpoint.is_mirror:
            url = url.update_query({"ns": self.endpoint.domain})
        async with self.open_url(method, url, headers=headers, body=body) as response:
            yield response

    @asynccontextmanager
    async def open_url(
        self, method: str, url: URL, *, headers: Mapping[str, str] | None = None, body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """As `open`, for a place that the registry has named (an upload)."""
        for answers in range(_MAX_ANSWERS + 1):
            sent = self._gate.header()
            async with self._line.open(method, url, self.endpoint, headers=headers or {}, authorization=sent, body=body) as response:
                if response.status < 300:
                    yield response
                    return
                refusal = await transport.refusal(response, f"{method} {url.path}", seconds=self.timing.stall_seconds)
                challenges = response.headers.getall("WWW-Authenticate", [])
                is_ours = response.url.origin() == self.endpoint.url.origin()
            if response.status != 401 or not is_ours or answers == _MAX_ANSWERS or not isinstance(refusal, AccessDenied):
                raise refusal
            await self._gate.answer(challenges, sent=sent, refusal=refusal)


class Repository:
    """A repository at the endpoints that serve it, in the order to ask. *choose* gives the credential for an endpoint's host."""

    def __init__(
        self, line: transport.Transport, endpoints: Iterable[Endpoint], name: str, *,
        choose: Callable[[str], Credential | None], actions: str = "pull",
    ) -> None:  # fmt: skip
        self.name = name
        self.timing = line.timing
        self.sites = tuple(Site(line, each, name, credential=choose(each.host), actions=actions) for each in endpoints)

    @property
    def told(self) -> Credential | None:
        """The credential that was needed, one of them where several hosts wanted one; None: what was shown is open to all."""
        return next((site.told for site in self.sites if site.told is not None), None)

    async def fetch_manifest(self, reference: str) -> Fetched:
        """The manifest or index of a tag or digest, proved. Raises RegistryError's subclasses."""
        needs = PULL if ":" in reference else RESOLVE
        return await self.ask(lambda site: _fetch_manifest(site, reference), needs=needs)

    async def has_manifest(self, digest: str) -> None:
        """Prove that this repository shows us the manifest of *digest*. Raises RegistryError's subclasses."""
        await self.ask(lambda site: _has_manifest(site, digest), needs=PULL)

    async def fetch_small(self, descriptor: manifests.Descriptor) -> bytes:
        """A blob of a few MiB, whole and proved. Raises RegistryError's subclasses."""
        return await self.ask(lambda site: _fetch_small(site, descriptor), needs=PULL)

    async def ask(self, question: Callable[[Site], Awaitable[_Answer]], *, needs: str) -> _Answer:
        """Put *question* to each site that can answer; the last one is the registry itself, and is asked with patience."""
        sites = [site for site in self.sites if needs in site.endpoint.capabilities]
        failures: list[RegistryError] = []
        for number, site in enumerate(sites):
            attempts = self.timing.attempts if number + 1 == len(sites) else 1
            try:
                return await retried(partial(question, site), timing=self.timing, attempts=attempts)
            except RegistryError as error:
                failures.append(error)
        raise combine(failures, self.name)


async def retried(question: Callable[[], Awaitable[_Answer]], *, timing: transport.Timing, attempts: int) -> _Answer:
    """Ask again, later and later, while the registry is merely unavailable. Raises what the last try raised."""
    for attempt in range(attempts):
        try:
            return await question()
        except RegistryUnavailable as error:
            wait = delay(timing, attempt, error.retry_after_seconds)
            if attempt + 1 == attempts or wait is None:
                raise
            await asyncio.sleep(wait)
    raise AssertionError("no attempt was made")


def delay(timing: transport.Timing, attempt: int, retry_after_seconds: float | None) -> float | None:
    """How long to wait after failed try number *attempt* (from 0); None when the registry asks for more than we have. Pure."""
    if retry_after_seconds is not None and retry_after_seconds > timing.max_retry_after_seconds:
        return None
    backoff = min(timing.first_backoff_seconds * 2.0**attempt, timing.max_backoff_seconds)
    return max(backoff, retry_after_seconds or 0.0)


def combine(failures: list[RegistryError], name: str) -> RegistryError:
    """One error of several sites' errors: the registry's own, with what the mirrors said behind it."""
    if not failures:
        return RegistryUnavailable(f"no host of the registry's hosts.toml may be asked for {name}; add capabilities")
    *mirrors, last = failures
    if mirrors:
        last.args = (f"{last}; before that: {quote('; '.join(map(str, mirrors)))}",)
    return last


async def _fetch_manifest(site: Site, reference: str) -> Fetched:
    async with site.open("GET", f"manifests/{reference}", headers={"Accept": manifests.ACCEPT}) as response:
        content = await transport.read_all(response, manifests.MAX_MANIFEST_BYTES, seconds=site.timing.stall_seconds)
        media_type = response.headers.get("Content-Type", "").split(";")[0].strip()
        told = response.headers.get("Docker-Content-Digest")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if ":" in reference and digest != reference:
        raise RegistryLied(f"{site.endpoint.host} was asked for the manifest {reference} and sends {digest}")
    if told is not None and told.startswith("sha256:") and told != digest:
        raise RegistryLied(f"{site.endpoint.host} calls the manifest {quote(told)} and sends {digest}")
    return Fetched(content=content, digest=digest, media_type=media_type)


async def _has_manifest(site: Site, digest: str) -> None:
    async with site.open("HEAD", f"manifests/{digest}", headers={"Accept": manifests.ACCEPT}) as response:
        told = response.headers.get("Docker-Content-Digest")
    if told is not None and told != digest:
        raise RegistryLied(f"{site.endpoint.host} was asked about the manifest {digest} and speaks of {quote(told)}")


async def _fetch_small(site: Site, descriptor: manifests.Descriptor) -> bytes:
    async with site.open("GET", f"blobs/{descriptor.digest}") as response:
        content = await transport.read_all(response, descriptor.size_bytes, seconds=site.timing.stall_seconds)
    if len(content) != descriptor.size_bytes or f"sha256:{hashlib.sha256(content).hexdigest()}" != descriptor.digest:
        raise RegistryLied(f"{site.endpoint.host} sends content that does not match {descriptor.digest} and its size")
    return content
