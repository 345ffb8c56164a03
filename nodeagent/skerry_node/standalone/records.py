"""What a manifest cannot say about its object, kept beside the status: identity, generation, times, last accepted form.

Files below the status directory, each written to a temporary name and renamed, none synced (after a crash of the
machine nothing runs anyway): `<namespace>.<name>.yaml` the object with its status, for people; in `.records/`
`<namespace>.<name>.json` the Record and `<namespace>.<name>.events` the last events.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_node.standalone import documents

MAX_EVENTS = 100
_FORMAT = 1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One object's identity; it lives from the manifest's first sight until its finalizer is removed."""

    key: documents.Key
    uid: str
    generation: int
    created: str
    deleted: str | None
    """When deletion was asked for, RFC 3339; the file is gone or about to be replaced by another object's."""
    file: str
    manifest: Mapping[str, Any]
    """The last accepted form, as the API renders it, so that a broken edit or a deletion loses nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something people want to know; equal ones that follow each other are one with a count."""

    time: str
    reason: str
    message: str
    warning: bool
    count: int = 1


class Store:
    """Records, statuses and events of one agent. Makes the directories when missing; needs write access to *path*."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._records = os.path.join(path, ".records")
        self._events: dict[documents.Key, list[Event]] = {}
        os.makedirs(self._records, mode=0o700, exist_ok=True)

    def load(self) -> tuple[Record, ...]:
        """Every record that can be read; a damaged one is logged and counts as absent."""
        names = sorted(n for n in os.listdir(self._records) if n.endswith(".json"))
        return tuple(record for name in names if (record := self._load(name)) is not None)

    def write(self, record: Record) -> None:
        """Keep *record*; raises OSError when the disk is full."""
        body = {"format": _FORMAT, **dataclasses.asdict(record)}
        _write(self._record_path(record.key), json.dumps(body))

    def remove(self, key: documents.Key) -> None:
        """Forget the object; the record goes last, so that a crash in between leaves the object being deleted."""
        self._events.pop(key, None)
        for path in (self._status_path(key), self._events_path(key), self._record_path(key)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def write_status(self, key: documents.Key, rendered: Mapping[str, Any]) -> None:
        """Put the whole object, status included, where people look."""
        _write(self._status_path(key), documents.render(rendered))

    def find_status(self, key: documents.Key, *, uid: str) -> Mapping[str, Any] | None:
        """The status last written for this very object, or None."""
        try:
            with open(self._status_path(key), "rb") as file:
                raw = documents.load_one(file.read())
        except (OSError, ValueError):
            return None
        metadata, status = raw.get("metadata"), raw.get("status")
        if not isinstance(metadata, dict) or metadata.get("uid") != uid or not isinstance(status, dict):
            return None
        return status

    def events(self, key: documents.Key) -> tuple[Event, ...]:
        """The last events of the object, oldest first."""
        return tuple(self._find_events(key))

    def add_event(self, key: documents.Key, event: Event) -> None:
        """Remember *event* among the last 100; never raises: an event is not worth a failure."""
        events = self._find_events(key)
        last = events[-1] if events else None
        if last is not None and (last.reason, last.message) == (event.reason, event.message):
            events[-1] = dataclasses.replace(event, count=last.count + 1)
        else:
            events.append(event)
            del events[:-MAX_EVENTS]
        try:
            _write(self._events_path(key), json.dumps([dataclasses.asdict(event) for event in events]))
        except OSError as error:
            _logger.warning("event not written namespace=%s name=%s error=%r", *key, error.strerror)

    def _find_events(self, key: documents.Key) -> list[Event]:
        if key not in self._events:
            try:
                with open(self._events_path(key), encoding="utf-8") as file:
                    self._events[key] = [Event(**fields) for fields in json.load(file)][-MAX_EVENTS:]
            except (OSError, ValueError, TypeError):
                self._events[key] = []
        return self._events[key]

    def _load(self, name: str) -> Record | None:
        try:
            with open(os.path.join(self._records, name), encoding="utf-8") as file:
                fields = json.load(file)
            if fields.pop("format") != _FORMAT:
                raise ValueError("written by another version")  # noqa: TRY301 - the same end as any other damage
            return Record(**{**fields, "key": (fields["key"][0], fields["key"][1])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            _logger.warning("record not readable, its object gets a new identity file=%s error=%s", name, error)
            return None

    def _record_path(self, key: documents.Key) -> str:
        return os.path.join(self._records, f"{'.'.join(key)}.json")

    def _events_path(self, key: documents.Key) -> str:
        return os.path.join(self._records, f"{'.'.join(key)}.events")

    def _status_path(self, key: documents.Key) -> str:
        return os.path.join(self.path, f"{'.'.join(key)}.yaml")


def _write(path: str, text: str) -> None:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.new")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(temporary, path)
