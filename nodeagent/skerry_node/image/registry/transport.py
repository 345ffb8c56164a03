"""One request to a registry: redirects followed by hand, headers kept from strangers, failures in our words."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from skerry_node.image.registry import addresses, dialing
from skerry_node.image.registry.errors import AccessDenied, AddressRefused, NotInRegistry, RegistryError, RegistryUnavailable, quote
from skerry_node.image.registry.hosts import Endpoint, Tls

MAX_REDIRECTS = 5
_MAX_ERROR_BYTES = 64 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Timing:
    """Patience, in seconds; *stall_bytes* is how little in *stall_seconds* counts as nothing."""

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    stall_bytes: int = 64 << 10
    attempts: int = 5
    first_backoff_seconds: float = 0.5
    max_backoff_seconds: float = 15.0
    max_retry_after_seconds: float = 60.0
    """A registry that asks for more is told of as unavailable: the pull's own back-off is longer."""


class Transport:
    """Requests to endpoints and wherever they redirect. *named* are the hosts that the operator named, by origin."""

    def __init__(self, dialer: dialing.Dialer, *, timing: Timing, named: Mapping[str, Endpoint] | None = None) -> None:
        self._dialer = dialer
        self.timing = timing
        self.named = named or {}

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, url: URL, endpoint: Endpoint, *, headers: Mapping[str, str], authorization: str | None = None,
        body: Mapping[str, str] | bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """The answer, whatever its status, its body still to be read; redirects of GET and HEAD are followed.

        *authorization* and the endpoint's own headers reach the endpoint's origin only. Raises RegistryUnavailable, AddressRefused.
        """
        home, response = addresses.origin(endpoint.url), None
        for _ in range(MAX_REDIRECTS + 1):
            is_home = addresses.origin(url) == home and url.scheme == endpoint.url.scheme
            response = await self._send(method, url, endpoint, _headers(headers, endpoint, authorization, is_home=is_home), body, is_home=is_home)
            if response.status not in _REDIRECTS or method not in {"GET", "HEAD"}:
                break
            target = response.headers.get("Location", "")
            response.close()
            url = follow(url, target)
        else:
            raise RegistryUnavailable(f"{endpoint.host} redirects more than {MAX_REDIRECTS} times")
        try:
            yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _broken(url, error) from error
        finally:
            response.close()

    async def _send(
        self, method: str, url: URL, endpoint: Endpoint, headers: Mapping[str, str], body: Mapping[str, str] | bytes | None, *, is_home: bool,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        known = endpoint if is_home else self.named.get(addresses.origin(url))
        session = self._dialer.session(is_named=known is not None and known.is_named)
        # A context costs 0.1 s to make: it reads every authority of the system.
        context = self._dialer.context(known.tls if known is not None else Tls()) if url.scheme == "https" else True
        try:
            async with asyncio.timeout(self.timing.connect_seconds + self.timing.stall_seconds):
                return await session.request(method, url, headers=headers, data=body, allow_redirects=False, ssl=context)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, dialing.AddressClosed):
                hint = "name the host in the agent's --registry-config to allow it"
                raise AddressRefused(f"{url.authority} is not asked: {error.os_error.strerror} ({error.os_error.address}); {hint}") from error
            raise _broken(url, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _broken(url, error) from error


async def read_all(response: aiohttp.ClientResponse, limit: int, *, seconds: float) -> bytes:
    """The body, at most *limit* bytes within *seconds*. Raises RegistryUnavailable, aiohttp's errors."""
    content = bytearray()
    async with asyncio.timeout(seconds):
        async for piece in response.content.iter_any():
            content += piece
            if len(content) > limit:
                raise RegistryUnavailable(f"{response.url.authority} answers with more than {limit} bytes where little was asked for")
    return bytes(content)


async def refusal(response: aiohttp.ClientResponse, what: str, *, seconds: float) -> RegistryError:
    """The error that an answer of status 400 and more stands for, in the registry's own words. *what* was asked for."""
    host, status = response.url.authority, response.status
    words = ""
    if response.method != "HEAD":
        with contextlib.suppress(RegistryError, aiohttp.ClientError, TimeoutError):
            words = _words(await read_all(response, _MAX_ERROR_BYTES, seconds=min(seconds, 5.0)))
    message = f"{what}: {host} answers {status}" + (f": {words}" if words else f" {quote(response.reason or '')}".rstrip())
    if status in {401, 403}:
        return AccessDenied(message)
    if status in {404, 410}:
        return NotInRegistry(message)
    if status in _BUSY:
        return RegistryUnavailable(message, retry_after_seconds=_retry_after(response.headers.get("Retry-After", "")))
    return RegistryError(message)


def _headers(headers: Mapping[str, str], endpoint: Endpoint, authorization: str | None, *, is_home: bool) -> dict[str, str]:
    if not is_home:
        return dict(headers)
    return {**headers, **dict(endpoint.headers), **({"Authorization": authorization} if authorization else {})}


def follow(url: URL, target: str) -> URL:
    """Where a redirect, or the place of an upload, leads. Raises RegistryUnavailable when that is no http, or leaves TLS behind."""
    try:
        found = url.join(URL(target))
    except ValueError:
        found = URL()
    if not target or found.scheme not in {"http", "https"} or not found.host or found.user:
        raise RegistryUnavailable(f"{url.authority} redirects to {quote(target)!r}")
    if url.scheme == "https" and found.scheme == "http":
        raise RegistryUnavailable(f"{url.authority} redirects to {quote(found.authority)} without TLS")
    return found


def _words(content: bytes) -> str:
    """What distribution-spec has registries say: {"errors": [{"code", "message"}]}; else the text itself."""
    try:
        first = json.loads(content)["errors"][0]
        return quote(": ".join(str(part) for part in (first.get("code"), first.get("message")) if part))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = content.decode(errors="replace")
        return "" if "<" in text[:100] else quote(text)


def _retry_after(text: str) -> float | None:
    """Seconds, or until a date (RFC 9110, 10.2.3); None when it says neither."""
    if text.isdigit() and len(text) < 10:
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max((email.utils.parsedate_to_datetime(text) - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
    return None


def _broken(url: URL, error: BaseException) -> RegistryUnavailable:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return RegistryUnavailable(f"{url.authority} is not trusted: {quote(str(error))}; give its authority as ca in --registry-config")
    if isinstance(error, TimeoutError):
        return RegistryUnavailable(f"{url.authority} does not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):  # its own text shows an object of ours
        return RegistryUnavailable(f"{url.authority} does not answer: {quote(error.os_error.strerror or str(error.os_error))}")
    return RegistryUnavailable(f"{url.authority} does not answer: {quote(str(error) or type(error).__name__)}")
