"""Events for people: queued off the hot path, repeated ones counted in one object, the oldest dropped under pressure."""

from __future__ import annotations

import asyncio
import datetime
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from skerry_api import names
from skerry_api.sandbox import Sandbox
from skerry_node import errors
from skerry_node.cluster.client import Client, Json
from skerry_node.cluster.errors import Refused

_COMPONENT = "skerry-agent"
_SERIES_SECONDS = 600.0
"""As client-go's correlator: the same thing within ten minutes is one Event with a count."""
_MAX_SERIES = 4096
_MAX_MESSAGE_CHARACTERS = 1024
"""events.k8s.io/v1 validation: note."""
_LOG = logging.getLogger("skerry.events")

Key = tuple[str, str, str]
"""uid, reason, type."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened *count* times to one object, last at *last*."""

    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    kind: str
    count: int
    first: datetime.datetime
    last: datetime.datetime

    @property
    def key(self) -> Key:
        """What makes two notes the same thing."""
        return (self.uid, self.reason, self.kind)


@dataclass(frozen=True, slots=True)
class _Series:
    """An Event that exists, and what it says."""

    event: str
    note: Note


class Recorder:
    """Posts notes one after the other. `add` never blocks; what fits nowhere is dropped, the oldest first."""

    def __init__(
        self, client: Client, node_name: str, *, now: Callable[[], datetime.datetime], capacity: int = 1000, delay_seconds: float = 0.2
    ) -> None:
        self._client = client
        self._node_name = node_name
        self._now = now
        self._capacity = capacity
        self._delay_seconds = delay_seconds
        self._waiting: OrderedDict[Key, Note] = OrderedDict()
        self._series: OrderedDict[Key, _Series] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def add(self, sandbox: Sandbox, *, reason: str, message: str, is_warning: bool) -> None:
        """Remember; post soon."""
        now, metadata = self._now(), sandbox.metadata
        note = Note(
            namespace=metadata.namespace, name=metadata.name, uid=metadata.uid, reason=reason,
            message=message[:_MAX_MESSAGE_CHARACTERS], kind="Warning" if is_warning else "Normal", count=1, first=now, last=now,
        )  # fmt: skip
        if (same := self._waiting.get(note.key)) is not None:
            note = replace(note, count=same.count + 1, first=same.first)
        self._waiting[note.key] = note
        if len(self._waiting) > self._capacity:
            self._waiting.popitem(last=False)
            self.dropped += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Forget what waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Until nothing waits. Starts late: statuses that were decided together go first."""
        pause = self._delay_seconds
        while self._waiting:
            await asyncio.sleep(pause)
            while self._waiting:
                key, note = self._waiting.popitem(last=False)
                try:
                    await self._post(note)
                except Refused as error:  # a namespace that goes, a right that we lack: nobody will read it
                    _LOG.debug("event refused uid=%s reason=%s problem=%s", note.uid, note.reason, error)
                except errors.SourceUnavailable:
                    self._put_back(key, note)
                    pause = min(max(pause, 0.1) * 2, 30.0)
                    break
                else:
                    pause = self._delay_seconds

    def _put_back(self, key: Key, note: Note) -> None:
        if (newer := self._waiting.get(key)) is not None:
            note = replace(newer, count=newer.count + note.count, first=note.first)
        self._waiting[key] = note
        self._waiting.move_to_end(key, last=False)

    async def _post(self, note: Note) -> None:
        series = self._series.get(note.key)
        if series is not None and (note.first - series.note.last).total_seconds() < _SERIES_SECONDS:
            note = replace(note, count=note.count + series.note.count, first=series.note.first)
            if await self._update(series.event, note):
                self._remember(series.event, note)
                return
        event = f"{note.name[:200]}.{secrets.token_hex(8)}"
        try:
            await self._client.post(_path(note), self._render(event, note))
        except Refused as error:
            if error.code != 409:
                raise
        self._remember(event, note)

    async def _update(self, event: str, note: Note) -> bool:
        """Whether the Event was still there."""
        changes = {"count": note.count, "lastTimestamp": _seconds(note.last), "message": note.message}
        try:
            await self._client.patch(f"{_path(note)}/{event}", changes)
        except Refused as error:
            if error.code != 404:
                raise
            return False
        return True

    def _remember(self, event: str, note: Note) -> None:
        self._series[note.key] = _Series(event, note)
        self._series.move_to_end(note.key)
        if len(self._series) > _MAX_SERIES:
            self._series.popitem(last=False)

    def _render(self, event: str, note: Note) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": event, "namespace": note.namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION, "kind": names.SANDBOX_KIND,
                "namespace": note.namespace, "name": note.name, "uid": note.uid,
            },
            "reason": note.reason,
            "message": note.message,
            "type": note.kind,
            "count": note.count,
            "firstTimestamp": _seconds(note.first),
            "lastTimestamp": _seconds(note.last),
            "source": {"component": _COMPONENT, "host": self._node_name},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self._node_name,
        }  # fmt: skip


def _path(note: Note) -> str:
    return f"/api/v1/namespaces/{note.namespace}/events"


def _seconds(moment: datetime.datetime) -> str:
    """metav1.Time has no fractions."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
