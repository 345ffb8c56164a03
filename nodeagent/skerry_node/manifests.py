"""Standalone: a directory of manifests in the API server's place, as the kubelet has static pods.

The files are the spec, the status directory holds the rest. Every step leaves files from which a restarted agent comes
to the same state: a manifest without a record is new, a record without a manifest is being deleted, a record marked
deleted stays until its finalizer is removed, and a manifest of that name waits for this moment and gets a new uid.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from skerry_api import errors as api_errors
from skerry_api.node import SandboxNode
from skerry_api.sandbox import DesiredState, Sandbox, SandboxStatus
from skerry_api.volumes import ObjectKind
from skerry_node import sources
from skerry_node.standalone import directory, documents, errors, objects, records

_logger = logging.getLogger(__name__)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _new_uid() -> str:
    return str(uuid.uuid4())


class ManifestSource:
    """The Source over *manifests_dir*; one watcher at a time. Reads files in the event loop: they are small and local.

    With *node_name*, a manifest may leave spec.nodeName out but may not name another node.
    """

    expires_objects = True

    def __init__(
        self,
        manifests_dir: str,
        status_dir: str,
        *,
        node_name: str | None = None,
        poll_seconds: float = 0.5,
        now: Callable[[], str] = _now,
        new_uid: Callable[[], str] = _new_uid,
    ) -> None:
        self._directory = directory.Directory(manifests_dir)
        self._store = records.Store(status_dir)
        self._node_name = node_name
        self._poll_seconds = poll_seconds
        self._now = now
        self._new_uid = new_uid
        self._objects: dict[documents.Key, objects.Object] = {}
        self._where: dict[documents.Key, tuple[str, int]] = {}
        self._missing: set[documents.Key] = set()
        self._entries: dict[tuple[ObjectKind, documents.Key], Mapping[str, bytes]] = {}
        self._problems: dict[tuple[str, documents.Key | None], sources.Invalid] = {}
        self._changes: deque[sources.Change] = deque()
        self._wake = asyncio.Event()
        self._is_loaded = False
        self._closed = False

    async def watch(self) -> AsyncIterator[sources.Change]:
        """First a Snapshot and what is wrong with the files, then changes until `close`."""
        self._load()
        self._scan()
        self._changes.clear()
        yield sources.Snapshot(self.sandboxes())
        self._changes.extendleft(reversed(self._problems.values()))
        while not self._closed:
            while self._changes:
                yield self._changes.popleft()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._wake.wait()
            self._wake.clear()
            self._scan()

    def poke(self) -> None:
        """Look at the files now instead of at the next poll."""
        self._wake.set()

    def sandboxes(self) -> tuple[Sandbox, ...]:
        """Every object, those being deleted too, by namespace and name."""
        return tuple(self._objects[key].sandbox for key in sorted(self._objects))

    def problems(self) -> tuple[sources.Invalid, ...]:
        """What is wrong with the files now."""
        return tuple(self._problems.values())

    def events(self, sandbox: Sandbox) -> tuple[records.Event, ...]:
        """The object's last events, oldest first."""
        return self._store.events(_key(sandbox))

    async def create(self, raw: Mapping[str, Any]) -> Sandbox:
        """A new object in a file of its own. Raises InvalidManifest, AlreadyExists, Unavailable."""
        self._load()
        sandbox = objects.parse(raw, node_name=self._node_name)
        key = _key(sandbox)
        self._scan()
        if (old := self._objects.get(key)) is not None:
            state = "is being deleted: wait, or take another name" if old.record.deleted else "exists"
            raise errors.AlreadyExists(f"sandbox {key[1]} in namespace {key[0]} {state}")
        self._directory.create(f"{'.'.join(key)}.yaml", documents.render(objects.without_server_fields(raw)))
        self._scan()
        return self._get(key).sandbox

    async def set_desired_state(self, sandbox: Sandbox, *, state: DesiredState, grace_seconds: int | None = None) -> Sandbox:
        """The object with spec.desiredState, and the grace period when given, written in its file.

        Raises NotFound, Unavailable.
        """
        self._scan()
        found = self._get(_key(sandbox), uid=sandbox.metadata.uid)
        if found.record.deleted is not None or found.record.key not in self._where:
            raise errors.NotFound(f"sandbox {sandbox.metadata.name} is being deleted")
        values: dict[str, str | int] = {"desiredState": state.value}
        if grace_seconds is not None:
            values["terminationGracePeriodSeconds"] = grace_seconds
        name, position = self._where[found.record.key]
        self._directory.replace(name, documents.set_spec(self._directory.text(name), position=position, values=values))
        self._scan()
        changed = self._get(found.record.key).sandbox
        if changed.spec.desired_state is not state:
            problem = self._problems.get((name, found.record.key))
            raise errors.Unavailable(f"{name}: {problem.problem if problem else 'somebody else changed it just now'}")
        return changed

    async def delete(self, sandbox: Sandbox) -> None:
        """Take the object out of its file; it stays with a deletion timestamp until its finalizer is removed."""
        self._scan()
        key = _key(sandbox)
        found = self._objects.get(key)
        if found is None or found.record.uid != sandbox.metadata.uid or found.record.deleted is not None:
            return
        if key in self._where:
            name, position = self._where[key]
            rest = documents.without(self._directory.text(name), position=position)
            if rest is None:
                self._directory.remove(name)
            else:
                self._directory.replace(name, rest)
        self._keep(objects.mark_deleted(found, now=self._now()))
        self._scan()

    async def write_status(self, sandbox: Sandbox, *, status: SandboxStatus) -> None:
        """Write the object with *status* for people to read; a vanished object is success."""
        found = self._objects.get(_key(sandbox))
        if found is None or found.record.uid != sandbox.metadata.uid or found.sandbox.status == status:
            return
        updated = dataclasses.replace(found, sandbox=dataclasses.replace(found.sandbox, status=status))
        try:
            self._store.write_status(found.record.key, objects.render(updated.sandbox))
        except OSError as error:
            raise errors.Unavailable(f"cannot write the status of {sandbox.metadata.name}: {error.strerror}") from error
        self._objects[found.record.key] = updated

    async def remove_finalizer(self, sandbox: Sandbox) -> None:
        """Forget the deleted object; a manifest of its name that waits becomes a new one."""
        key = _key(sandbox)
        found = self._objects.get(key)
        if found is None or found.record.uid != sandbox.metadata.uid or found.record.deleted is None:
            return
        self._store.remove(key)
        del self._objects[key]
        self._changes.append(sources.Gone(found.record.uid))
        self.poke()

    def post_event(self, sandbox: Sandbox, *, reason: str, message: str, warning: bool = False) -> None:
        """Remember an event for `inspect`; never raises."""
        found = self._objects.get(_key(sandbox))
        if found is not None and found.record.uid == sandbox.metadata.uid:
            event = records.Event(time=self._now(), reason=reason, message=message, warning=warning)
            self._store.add_event(found.record.key, event)

    async def read_pull_secret(self, namespace: str, name: str) -> bytes | None:  # noqa: ARG002 - the source's
        """None: there are no Secrets here; the agent's --docker-config holds for all sandboxes of a machine."""
        return None

    async def read_entries(self, kind: ObjectKind, *, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The entries of a ConfigMap or Secret in the files; None when there is none."""
        return self._entries.get((kind, (namespace, name)))

    async def write_node(self, node: SandboxNode) -> None:
        """Nothing: no one schedules onto a standalone node."""

    async def renew_lease(self) -> None:
        """Nothing: no one waits for the heartbeat."""

    async def close(self) -> None:
        """End the watch."""
        self._closed = True
        self.poke()

    def _load(self) -> None:
        """What the last agent knew, once."""
        if self._is_loaded:
            return
        for record in self._store.load():
            status = self._store.find_status(record.key, uid=record.uid)
            try:
                self._objects[record.key] = objects.restore(record, status=status)
            except api_errors.InvalidManifest as error:
                _logger.warning("record not valid any more uid=%s problem=%s", record.uid, error)
        self._missing = set(self._objects)  # a file that went while no agent ran needs no second look
        self._is_loaded = True

    def _scan(self) -> None:
        """Bring the objects to what the files say; the changes wait in the queue."""
        self._load()
        try:
            files = self._directory.read()
        except errors.Unavailable as error:
            # A directory that cannot be read says nothing: every object stays as it is.
            self._note_problems({("", None): sources.Invalid("", self._directory.path, "", str(error))})
            return
        problems: dict[tuple[str, documents.Key | None], sources.Invalid] = {}
        self._where = {}
        entries: dict[tuple[ObjectKind, documents.Key], Mapping[str, bytes]] = {}
        for name, content in files.items():
            for item in content:
                if isinstance(item, documents.Entries):
                    entries[item.kind, item.key] = item.entries
                    continue
                problem = self._accept(item, name) if isinstance(item, documents.Document) else item.text
                if problem is not None:
                    problems[name, item.key] = self._describe(name, item.key, problem)
        self._entries = entries
        self._remove_missing(problems)
        self._note_problems(problems)

    def _accept(self, document: documents.Document, name: str) -> str | None:
        """Create or update the document's object; returns what is wrong with it, if anything."""
        key = document.key
        if key in self._where:
            return f"sandbox {key[1]} is in the file {self._where[key][0]} already: the first one counts"
        self._where[key] = (name, document.position)
        old = self._objects.get(key)
        if old is not None and (old.record.deleted is not None or old.says(document.raw, name)):
            return None
        try:
            new = objects.accept(document, old=old, file=name, node_name=self._node_name, new_uid=self._new_uid, now=self._now)
        except api_errors.InvalidManifest as error:
            return str(error)
        if new is not None and self._is_taken(new):
            return f"metadata.uid: another sandbox has {new.record.uid}: leave it out"
        if new is None:
            assert old is not None
            new = objects.mark_deleted(old, now=self._now())
        try:
            self._keep(new)
        except errors.Unavailable as error:
            return str(error)
        return None

    def _keep(self, new: objects.Object) -> None:
        """Record the object, then make it known. Raises Unavailable, with nothing changed."""
        old = self._objects.get(new.record.key)
        if old is None or old.record != new.record:
            try:
                self._store.write(new.record)
            except OSError as error:
                raise errors.Unavailable(f"cannot record sandbox {new.record.key[1]}: {error.strerror}") from error
        self._objects[new.record.key] = new
        if old is None or old.sandbox != new.sandbox:
            self._changes.append(sources.Upsert(new.sandbox))
            self.poke()

    def _is_taken(self, new: objects.Object) -> bool:
        return any(o.record.uid == new.record.uid and key != new.record.key for key, o in self._objects.items())

    def _remove_missing(self, problems: Mapping[tuple[str, documents.Key | None], sources.Invalid]) -> None:
        """Mark what no file names any more, on the second look: an editor may be replacing the file just now."""
        missing = objects.find_missing(self._objects, placed=self._where.keys(), problems=problems.keys())
        for key in missing & self._missing:
            with contextlib.suppress(errors.Unavailable):  # the next look tries again
                self._keep(objects.mark_deleted(self._objects[key], now=self._now()))
        self._missing = missing

    def _note_problems(self, problems: dict[tuple[str, documents.Key | None], sources.Invalid]) -> None:
        self._changes.extend(new for where, new in problems.items() if self._problems.get(where) != new)
        self._problems = problems

    def _describe(self, name: str, key: documents.Key | None, problem: str) -> sources.Invalid:
        if key is None:
            return sources.Invalid("", name, "", f"{name}: {problem}")
        found = self._objects.get(key)
        return sources.Invalid(key[0], key[1], found.record.uid if found else "", problem)

    def _get(self, key: documents.Key, *, uid: str | None = None) -> objects.Object:
        found = self._objects.get(key)
        if found is None or uid not in {None, found.record.uid}:
            raise errors.NotFound(f"no sandbox {key[1]} in namespace {key[0]}")
        return found


def _key(sandbox: Sandbox) -> documents.Key:
    return (sandbox.metadata.namespace, sandbox.metadata.name)
