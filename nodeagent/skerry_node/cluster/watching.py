"""List and watch this node's sandboxes: a Snapshot, then changes, for ever, through every fault of the way."""

from __future__ import annotations

import json
import logging
import random
import time
from asyncio import sleep
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from skerry_api import names
from skerry_api.sandbox import Sandbox, parse_sandbox
from skerry_node import errors
from skerry_node.cluster.client import Client
from skerry_node.cluster.errors import Refused
from skerry_node.sources import Change, Gone, Invalid, Snapshot, Upsert

PATH = f"/apis/{names.GROUP}/{names.VERSION}/{names.SANDBOX_PLURAL}"
_GONE = 410
_WRONG = (ValueError, KeyError, TypeError, AttributeError)
"""What parsing raises for an object whose shape nobody foresaw; InvalidManifest is a ValueError."""
_LOG = logging.getLogger("skerry.watch")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. The server ends a watch after *watch*; *silence* without a byte means that the way is cut."""

    watch: int = 60
    silence: float = 75.0
    list: float = 30.0
    shortest_pause: float = 0.05
    longest_pause: float = 5.0


class _Expired(Exception):
    """The server no longer has the changes since our version: list again."""


class Watch:
    """One watch of the sandboxes bound to *node_name*; `changes` may run once at a time."""

    def __init__(
        self, client: Client, node_name: str, *, timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic, fraction: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._client = client
        self._selector = f"spec.nodeName={node_name}"
        self._timing = timing or Timing()
        self._clock = clock
        self._fraction = fraction
        self._known: dict[str, Sandbox] = {}
        self._version = ""
        self._failures = 0
        self._heard_at = clock()
        self._problem = ""

    @property
    def age_seconds(self) -> float:
        """Since the server last said anything on the watch; a healthy one speaks each minute."""
        return self._clock() - self._heard_at

    def find(self, uid: str) -> Sandbox | None:
        """The newest version that was seen."""
        return self._known.get(uid)

    async def changes(self) -> AsyncGenerator[Change]:
        """A Snapshot, changes after it, and a new Snapshot after each relist. Ends with the client, raises for no fault of the server."""
        while not self._client.is_closed:
            try:
                listed = await self._list()
            except errors.SourceUnavailable as error:
                await self._pause(error)
                continue
            for change in listed:
                yield change
            try:
                async for change in self._follow():
                    yield change
            except _Expired:
                _LOG.info("watch expired; listing again")
            except Refused as error:
                await self._pause(error)

    async def _list(self) -> list[Change]:
        """A complete, consistent list: no resourceVersion asks for the newest. Anything else than a list is a fault, not an empty list."""
        raw = await self._client.get(PATH, query={"fieldSelector": self._selector}, seconds=self._timing.list)
        items, version = raw.get("items"), (raw.get("metadata") or {}).get("resourceVersion")
        if raw.get("kind") != f"{names.SANDBOX_KIND}List" or not isinstance(items, list) or not version:
            raise errors.SourceUnavailable(f"GET {PATH}: the answer is not a list of sandboxes")
        found: dict[str, Sandbox] = {}
        invalid: list[Change] = []
        for item in items:
            change = self._parse(item)
            if isinstance(change, Upsert):
                found[change.sandbox.metadata.uid] = change.sandbox
            elif isinstance(change, Invalid):
                invalid.append(change)
                if (last := self._known.get(change.uid)) is not None:
                    found[change.uid] = last  # it exists: its last good version stands
        self._known, self._version = found, version
        self._heard()
        return [Snapshot(tuple(found.values())), *invalid]

    async def _follow(self) -> AsyncGenerator[Change]:
        """Changes since the list, over as many connections as it takes. Raises _Expired, Refused: list again."""
        while not self._client.is_closed:
            query = {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "fieldSelector": self._selector,
                "resourceVersion": self._version,
                "timeoutSeconds": str(self._timing.watch),
            }
            began, has_spoken = self._clock(), False
            try:
                stream = self._client.stream(PATH, query=query, silence_seconds=self._timing.silence)
                async with aclosing(stream):
                    async for lines in stream:
                        changes = self._digest(lines)
                        has_spoken = True
                        self._heard()
                        self._recovered()
                        for change in changes:
                            yield change
            except Refused as error:
                if error.code == _GONE:
                    await self._hesitate()
                    raise _Expired from error
                raise
            except errors.SourceUnavailable as error:
                await self._pause(error)
                continue
            if has_spoken or self._clock() - began > 1.0:
                self._heard()  # the server ended it in good order
                self._recovered()
            else:
                await self._pause(errors.SourceUnavailable("the watch ended at once"))

    def _digest(self, lines: list[bytes]) -> list[Change]:
        """What *lines* say, the newest per uid only. Raises _Expired, Refused, errors.SourceUnavailable."""
        newest: dict[str, Change] = {}
        for line in lines:
            try:
                event = json.loads(line)
                kind, item = event["type"], event["object"]
                if kind == "ERROR":
                    raise Refused(int(item.get("code") or 500), f"watch: {item.get('message')}")
                version, uid = item["metadata"]["resourceVersion"], item["metadata"].get("uid", "")
            except _WRONG as error:
                raise errors.SourceUnavailable("the watch sent what is no event") from error
            if kind != "BOOKMARK":
                newest.pop(uid, None)
                newest[uid] = self._gone(uid) if kind == "DELETED" else self._parse(item)
            self._version = version
        return list(newest.values())

    def _gone(self, uid: str) -> Gone:
        self._known.pop(uid, None)
        return Gone(uid)

    def _parse(self, item: Any) -> Change:
        try:
            sandbox = _parse_any_status(item)
        except _WRONG as error:
            metadata = (item.get("metadata") if isinstance(item, dict) else None) or {}
            return Invalid(
                namespace=str(metadata.get("namespace", "")),
                name=str(metadata.get("name", "")),
                uid=str(metadata.get("uid", "")),
                problem=str(error),
            )
        self._known[sandbox.metadata.uid] = sandbox
        return Upsert(sandbox)

    def _heard(self) -> None:
        self._heard_at = self._clock()

    def _recovered(self) -> None:
        if self._problem:
            _LOG.info("API server answers again after=%d", self._failures)
        self._failures, self._problem = 0, ""

    async def _pause(self, error: errors.SourceUnavailable) -> None:
        """Say what is wrong, once per problem, and wait."""
        if (problem := str(error)) != self._problem:
            _LOG.warning("no news from the API server problem=%s", problem)
            self._problem = problem
        await self._hesitate()

    async def _hesitate(self) -> None:
        """Exponential, between half and the whole of each step, so that a cluster's agents do not return all at once."""
        longest = min(self._timing.shortest_pause * 2**self._failures, self._timing.longest_pause)
        self._failures = min(self._failures + 1, 16)
        await sleep(longest * (0.5 + self._fraction() / 2))


def _parse_any_status(item: Any) -> Sandbox:
    """A status that another version wrote, and that we cannot read, must not hide a sandbox that runs. Raises _WRONG."""
    try:
        return parse_sandbox(item)
    except _WRONG:
        if not isinstance(item, dict) or not item.get("status"):
            raise
        return parse_sandbox({**item, "status": {}})
