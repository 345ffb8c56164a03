"""Requests to the API server: JSON over a few connections that are kept alive. Failures come out as errors.RequestFailed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from skerry_operator import errors
from skerry_operator.access import Access

Json = dict[str, Any]
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_CONNECTIONS = 32
_TIMEOUT_SECONDS, _SILENCE_SECONDS = 15.0, 90.0
"""Watches ask to be ended after a minute; one that is silent for longer is dead."""
_PAGE = 500
"""Objects a page, as client-go's reflectors ask."""


class Client:
    """One per process; close it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.on_answer: Callable[[str, int, float], None] = lambda *_: None
        """Hears of each request but watches: the method, the HTTP status (0: none was answered), seconds."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=access.tls(), keepalive_timeout=75.0),
            # in a burst, waiting for one of our connections is not the server's silence: no total
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_SECONDS, sock_read=_TIMEOUT_SECONDS),
        )

    async def request(
        self, method: str, path: str, *, body: Any = None, content_type: str = "application/json", accept: str = "application/json"
    ) -> Json:
        """The answer's JSON. Raises errors.RequestFailed."""
        headers = {"Content-Type": content_type, "Accept": accept, "User-Agent": "skerry-operator", **await self._access.headers()}
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        began, code = time.perf_counter(), 0
        try:
            async with self._session.request(
                method, self._access.server + path, data=data, headers=headers, server_hostname=self._access.server_name
            ) as answer:
                content, code = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise errors.Unavailable(f"{method} {path}: {error!r}") from error
        finally:
            self.on_answer(method, code, time.perf_counter() - began)
        if answer.status >= 400:
            raise _failure(answer.status, f"{method} {path}", content)
        parsed: Json = json.loads(content)
        return parsed

    async def list_all(self, path: str, *, is_metadata_only: bool = False) -> list[Json]:
        """Every object of a collection, page by page. Raises errors.RequestFailed."""
        found: list[Json] = []
        accept, token = _METADATA_ONLY if is_metadata_only else "application/json", ""
        while True:
            page = await self.request("GET", f"{path}?limit={_PAGE}&continue={token}" if token else f"{path}?limit={_PAGE}", accept=accept)
            found.extend(page["items"])
            token = page["metadata"].get("continue") or ""
            if not token:
                return found

    async def watch(self, path: str) -> AsyncIterator[Json]:
        """The events of a watch until the server ends it. Raises errors.RequestFailed, also after a silence."""
        headers = {"Accept": "application/json", "User-Agent": "skerry-operator", **await self._access.headers()}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_SECONDS, sock_read=_SILENCE_SECONDS)
        try:
            async with self._session.get(
                self._access.server + path, headers=headers, timeout=timeout, server_hostname=self._access.server_name
            ) as answer:
                if answer.status >= 400:
                    raise _failure(answer.status, f"GET {path}", await answer.read())
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise errors.Unavailable(f"GET {path}: {error!r}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _failure(status: int, what: str, content: bytes) -> errors.RequestFailed:
    try:
        said = json.loads(content)
        message = str(said.get("message", said))
    except ValueError:
        message, said = content[:200].decode(errors="replace"), {}
    text = f"{what}: {status} {message}"
    if status == 404:
        return errors.NotFound(text)
    # A failed `test` of a JSON patch is a 422 without causes; a refused field has them.
    if status == 409 or (status == 422 and "test" in message and not said.get("details", {}).get("causes")):
        return errors.Conflict(text)
    if status == 429 or status >= 500:
        return errors.Unavailable(text)
    return errors.Refused(text)
