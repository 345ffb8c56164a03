"""One session with the API server: JSON requests and line streams over a few kept-alive connections."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from skerry_node import errors
from skerry_node.cluster.access import Access
from skerry_node.cluster.errors import Refused

JSON, MERGE_PATCH, JSON_PATCH = "application/json", "application/merge-patch+json", "application/json-patch+json"
REQUEST_SECONDS, CONNECT_SECONDS = 10.0, 5.0
_KEEPALIVE_SECONDS = 75.0
"""Below the 90 s after which the API server closes an idle connection; above the heartbeat that keeps one warm."""
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)

Json = Mapping[str, Any]


class Client:
    """Requests to one API server. *connections* bounds how many run at once: a TLS handshake costs more than a short wait.

    The watch has a connection of its own beyond that number. Must be used inside one event loop.
    """

    def __init__(self, access: Access, *, connections: int = 8) -> None:
        self._access = access
        self._connections = connections
        self._opened: aiohttp.ClientSession | None = None
        self.is_closed = False
        self.on_answer: Callable[[str, int, float], None] = lambda *_: None
        """Hears of each request but the watch: the method, the HTTP status (0: none was answered), seconds."""

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._access.server

    async def get(self, path: str, *, query: Mapping[str, str] | None = None, seconds: float = REQUEST_SECONDS) -> Json:
        """Read *path*. Raises Refused, errors.SourceUnavailable."""
        return await self._request("GET", path, query=query, seconds=seconds)

    async def post(self, path: str, body: Json) -> Json:
        """Create *body* below *path*. Raises Refused, errors.SourceUnavailable."""
        return await self._request("POST", path, body=body)

    async def patch(self, path: str, body: Json | Sequence[Json]) -> Json:
        """A merge patch when *body* is an object, a JSON patch (RFC 6902) when a list. Raises Refused, errors.SourceUnavailable."""
        return await self._request("PATCH", path, body=body, content=MERGE_PATCH if isinstance(body, Mapping) else JSON_PATCH)

    async def delete(self, path: str, body: Json) -> Json:
        """Delete with the options in *body*. Raises Refused, errors.SourceUnavailable."""
        return await self._request("DELETE", path, body=body)

    async def stream(self, path: str, *, query: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[list[bytes]]:
        """The lines of an answer that does not end, as they come, those that came together in one list.

        Returns when the server ends it. Raises Refused, errors.SourceUnavailable; the latter also after *silence_seconds*.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds)
        try:
            async with self._session().get(
                self._url(path, query), headers=self._headers(), timeout=timeout, server_hostname=self._access.server_name
            ) as response:
                if response.status >= 400:
                    raise self._refusal("GET", path, response.status, await response.read())
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield lines
        except _UNREACHABLE as error:
            raise errors.SourceUnavailable(f"watch of {path} broke: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """Close every connection; running requests fail."""
        self.is_closed = True
        if self._opened is not None:
            await self._opened.close()

    async def _request(
        self, method: str, path: str, *, body: Any = None, content: str = JSON, query: Mapping[str, str] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Json:  # fmt: skip
        try:
            status, answer = await self._exchange(method, path, body, content, query, seconds)
        except aiohttp.ServerDisconnectedError:
            # A kept connection that the server had closed; everything sent here may be sent twice.
            status, answer = await self._again(method, path, body, content, query, seconds)
        except _UNREACHABLE as error:
            raise _unreachable(method, path, error) from error
        if status >= 400:
            raise self._refusal(method, path, status, answer)
        try:
            value = json.loads(answer)
        except ValueError as error:
            raise errors.SourceUnavailable(f"{method} {path}: the answer is not JSON") from error
        if not isinstance(value, dict):
            raise errors.SourceUnavailable(f"{method} {path}: the answer is not an object")
        return value

    async def _again(self, method: str, path: str, body: Any, content: str, query: Mapping[str, str] | None, seconds: float) -> tuple[int, bytes]:
        try:
            return await self._exchange(method, path, body, content, query, seconds)
        except _UNREACHABLE as error:
            raise _unreachable(method, path, error) from error

    async def _exchange(self, method: str, path: str, body: Any, content: str, query: Mapping[str, str] | None, seconds: float) -> tuple[int, bytes]:
        began, code = time.perf_counter(), 0
        try:
            code, answer = await self._send(method, path, body, content, query, seconds)
        finally:
            self.on_answer(method, code, time.perf_counter() - began)
        return code, answer

    async def _send(self, method: str, path: str, body: Any, content: str, query: Mapping[str, str] | None, seconds: float) -> tuple[int, bytes]:
        async with self._session().request(
            method,
            self._url(path, query),
            data=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
            headers=self._headers(content if body is not None else None),
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
            server_hostname=self._access.server_name,
        ) as response:
            return response.status, await response.read()

    def _session(self) -> aiohttp.ClientSession:
        if self.is_closed:
            raise errors.SourceUnavailable("the agent is ending")
        if self._opened is None:
            connector = aiohttp.TCPConnector(limit=self._connections + 1, ssl=self._access.tls or True, keepalive_timeout=_KEEPALIVE_SECONDS)
            self._opened = aiohttp.ClientSession(
                connector=connector, proxy=self._access.proxy, auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._opened

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        return URL(f"{self._access.server}{path}{'?' + urlencode(query) if query else ''}", encoded=True)

    def _headers(self, content: str | None = None) -> dict[str, str]:
        headers = {"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": "skerry-agent"}
        if content is not None:
            headers["Content-Type"] = content
        if (credential := self._access.credential.header()) != "":
            headers["Authorization"] = credential
        return headers

    def _refusal(self, method: str, path: str, status: int, answer: bytes) -> Refused:
        if status == 401:
            self._access.credential.forget()
        try:
            message = str(json.loads(answer)["message"])
        except (ValueError, LookupError, TypeError):
            message = answer[:200].decode(errors="replace").strip() or "no reason given"
        return Refused(status, f"{method} {path}: {status}: {message}")


def version(answer: Json) -> str:
    """The resourceVersion in *answer*. Raises errors.SourceUnavailable when it is no object of Kubernetes."""
    metadata = answer.get("metadata")
    found = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    if not isinstance(found, str):
        raise errors.SourceUnavailable("the answer is not an object with a resourceVersion")
    return found


def _unreachable(method: str, path: str, error: BaseException) -> errors.SourceUnavailable:
    return errors.SourceUnavailable(f"{method} {path}: {str(error) or type(error).__name__}")
