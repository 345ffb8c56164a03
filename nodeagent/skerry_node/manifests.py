"""Standalone: a directory of manifests in the API server's place, as the kubelet has static pods.

The files are the spec, the status directory holds the rest. Every step leaves files from which a restarted agent comes
to the same state: a manifest without a record is new, a record without a manifest is being deleted, a record marked
deleted stays until its finalizer is removed, and a manifest of that name waits for this moment and gets a new uid.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from skerry_api.node import SandboxNode
from skerry_api.sandbox import DesiredState, Sandbox, SandboxStatus
from skerry_api.volumes import ObjectKind
from skerry_node import sources
from skerry_node.standalone import directory, documents, errors, objects, records, shelf


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
        self._wake = asyncio.Event()
        self._directory = directory.Directory(manifests_dir)
        self._store = records.Store(status_dir)
        self._shelf = shelf.Shelf(self._directory, self._store, node_name=node_name, now=now, new_uid=new_uid, wake=self._wake.set)
        self._node_name = node_name
        self._poll_seconds = poll_seconds
        self._now = now
        self._closed = False

    async def watch(self) -> AsyncIterator[sources.Change]:
        """First a Snapshot and what is wrong with the files, then changes until `close`."""
        kept, clock = self._shelf, asyncio.get_running_loop().time
        kept.scan()
        kept.changes.clear()
        yield sources.Snapshot(self.sandboxes())
        kept.changes.extendleft(reversed(kept.problems.values()))
        due = clock() + self._poll_seconds
        while not self._closed:
            while kept.changes:
                yield kept.changes.popleft()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._wake.wait()
            self._wake.clear()
            if clock() >= due:
                kept.scan()
                due = clock() + self._poll_seconds

    def sandboxes(self) -> tuple[Sandbox, ...]:
        """Every object, those being deleted too, by namespace and name."""
        return tuple(self._shelf.objects[key].sandbox for key in sorted(self._shelf.objects))

    def problems(self) -> tuple[sources.Invalid, ...]:
        """What is wrong with the files now."""
        return tuple(self._shelf.problems.values())

    def events(self, sandbox: Sandbox) -> tuple[records.Event, ...]:
        """The object's last events, oldest first."""
        return self._store.events(_key(sandbox))

    async def create(self, raw: Mapping[str, Any]) -> Sandbox:
        """A new object in a file of its own. Raises InvalidManifest, AlreadyExists, Unavailable."""
        sandbox = objects.parse(raw, node_name=self._node_name)
        key = _key(sandbox)
        self._shelf.scan_if_changed()
        if (old := self._shelf.objects.get(key)) is not None:
            state = "is being deleted: wait, or take another name" if old.record.deleted else "exists"
            raise errors.AlreadyExists(f"sandbox {key[1]} in namespace {key[0]} {state}")
        name = f"{'.'.join(key)}.yaml"
        self._directory.create(name, documents.render(objects.without_server_fields(raw)))
        if self._shelf.find_place(key) is None:
            self._shelf.take_new(name)
        else:  # a file that is wrong names it, too
            self._shelf.scan()
        return self._shelf.find(key).sandbox

    async def set_desired_state(self, sandbox: Sandbox, *, state: DesiredState, grace_seconds: int | None = None) -> Sandbox:
        """The object with spec.desiredState, and the grace period when given, written in its file.

        Raises NotFound, Unavailable.
        """
        self._shelf.scan()
        key = _key(sandbox)
        found, place = self._shelf.find(key, uid=sandbox.metadata.uid), self._shelf.find_place(key)
        if found.record.deleted is not None or place is None:
            raise errors.NotFound(f"sandbox {sandbox.metadata.name} is being deleted")
        values: dict[str, str | int] = {"desiredState": state.value}
        if grace_seconds is not None:
            values["terminationGracePeriodSeconds"] = grace_seconds
        name, position = place
        self._directory.replace(name, documents.set_spec(self._directory.text(name), position=position, values=values))
        self._shelf.scan()
        changed = self._shelf.find(key).sandbox
        if changed.spec.desired_state is not state:
            problem = self._shelf.problems.get((name, key))
            raise errors.Unavailable(f"{name}: {problem.problem if problem else 'somebody else changed it just now'}")
        return changed

    async def delete(self, sandbox: Sandbox) -> None:
        """Take the object out of its file; it stays with a deletion timestamp until its finalizer is removed."""
        key, kept = _key(sandbox), self._shelf
        place = kept.find_place(key)
        kept.scan_if_changed(*(() if place is None else place[:1]))
        found, place = kept.objects.get(key), kept.find_place(key)
        if found is None or found.record.uid != sandbox.metadata.uid or found.record.deleted is not None:
            return
        rest = None
        if place is not None:
            name, position = place
            rest = documents.without(self._directory.text(name), position=position)
            if rest is None:
                self._directory.remove(name)
            else:
                self._directory.replace(name, rest)
        kept.drop(key)
        if rest is not None or any(key == named for _, named in kept.problems):
            kept.scan()  # other documents have moved, or come to count now

    async def write_status(self, sandbox: Sandbox, *, status: SandboxStatus) -> None:
        """Write the object with *status* for people to read; a vanished object is success."""
        found = self._shelf.objects.get(_key(sandbox))
        if found is None or found.record.uid != sandbox.metadata.uid or found.sandbox.status == status:
            return
        updated = dataclasses.replace(found, sandbox=dataclasses.replace(found.sandbox, status=status))
        try:
            self._store.write_status(found.record.key, objects.render(updated.sandbox))
        except OSError as error:
            raise errors.Unavailable(f"cannot write the status of {sandbox.metadata.name}: {error.strerror}") from error
        self._shelf.objects[found.record.key] = updated

    async def remove_finalizer(self, sandbox: Sandbox) -> None:
        """Forget the deleted object; a manifest of its name that waits becomes a new one."""
        key = _key(sandbox)
        found = self._shelf.objects.get(key)
        if found is None or found.record.uid != sandbox.metadata.uid or found.record.deleted is None:
            return
        self._shelf.forget(key)

    def post_event(self, sandbox: Sandbox, *, reason: str, message: str, warning: bool = False) -> None:
        """Remember an event for `inspect`; never raises."""
        found = self._shelf.objects.get(_key(sandbox))
        if found is not None and found.record.uid == sandbox.metadata.uid:
            event = records.Event(time=self._now(), reason=reason, message=message, warning=warning)
            self._store.add_event(found.record.key, event)

    async def read_pull_secret(self, namespace: str, name: str) -> bytes | None:  # noqa: ARG002 - the source's
        """None: there are no Secrets here; the agent's --docker-config holds for all sandboxes of a machine."""
        return None

    async def read_entries(self, kind: ObjectKind, *, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The entries of a ConfigMap or Secret in the files; None when there is none."""
        return self._shelf.entries.get((kind, (namespace, name)))

    async def write_node(self, node: SandboxNode) -> None:
        """Nothing: no one schedules onto a standalone node."""

    async def renew_lease(self) -> None:
        """Nothing: no one waits for the heartbeat."""

    async def close(self) -> None:
        """End the watch."""
        self._closed = True
        self._wake.set()


def _key(sandbox: Sandbox) -> documents.Key:
    return (sandbox.metadata.namespace, sandbox.metadata.name)
