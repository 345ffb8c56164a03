"""The objects that a directory of manifests says there are: kept in step with the files, and their changes told in order."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping

from skerry_api import errors as api_errors
from skerry_api.volumes import ObjectKind
from skerry_node import sources
from skerry_node.standalone import directory, documents, errors, objects, records

_logger = logging.getLogger(__name__)


class Shelf:
    """Objects by namespace and name. `changes` is what a watcher has not been told yet; *wake* is called when there is more of it.

    A look at all files costs some 20 us each. What comes through our own doors needs none as long as nobody else has changed the directory.
    """

    def __init__(
        self,
        files: directory.Directory,
        store: records.Store,
        *,
        node_name: str | None,
        now: Callable[[], str],
        new_uid: Callable[[], str],
        wake: Callable[[], None],
    ) -> None:
        self.objects: dict[documents.Key, objects.Object] = {}
        self.entries: dict[tuple[ObjectKind, documents.Key], Mapping[str, bytes]] = {}
        self.problems: dict[tuple[str, documents.Key | None], sources.Invalid] = {}
        self.changes: deque[sources.Change] = deque()
        self._directory, self._store = files, store
        self._node_name, self._now, self._new_uid, self._wake = node_name, now, new_uid, wake
        self._where: dict[documents.Key, tuple[str, int]] = {}
        self._missing: set[documents.Key] = set()
        self._is_loaded = False

    def load(self) -> None:
        """What the last agent knew, once."""
        if self._is_loaded:
            return
        for record in self._store.load():
            status = self._store.find_status(record.key, uid=record.uid)
            try:
                self.objects[record.key] = objects.restore(record, status=status)
            except api_errors.InvalidManifest as error:
                _logger.warning("record not valid any more uid=%s problem=%s", record.uid, error)
        self._missing = set(self.objects)  # a file that went while no agent ran needs no second look
        self._is_loaded = True

    def find(self, key: documents.Key, *, uid: str | None = None) -> objects.Object:
        """The object of that name, and of that *uid* where one is given. Raises NotFound."""
        found = self.objects.get(key)
        if found is None or uid not in {None, found.record.uid}:
            raise errors.NotFound(f"no sandbox {key[1]} in namespace {key[0]}")
        return found

    def find_place(self, key: documents.Key) -> tuple[str, int] | None:
        """The file that names it, and the document's position in it; None when none did at the last look."""
        return self._where.get(key)

    def scan(self) -> None:
        """Bring the objects to what the files say; the changes wait in the queue."""
        self.load()
        try:
            files = self._directory.read()
        except errors.Unavailable as error:
            # A directory that cannot be read says nothing: every object stays as it is.
            self._note_problems({("", None): sources.Invalid("", self._directory.path, "", str(error))})
            return
        problems: dict[tuple[str, documents.Key | None], sources.Invalid] = {}
        self._where = {}
        self.entries = {}
        for name, content in files.items():
            problems.update(self._take(name, content))
        self._remove_missing(problems)
        self._note_problems(problems)

    def scan_if_changed(self, *names: str) -> None:
        """The same, unless neither files came or went nor one of *names* was written since the last look."""
        if not self._is_loaded or not self._directory.is_unchanged(*names):
            self.scan()

    def take_new(self, name: str) -> None:
        """What the file *name* says, which is new: the others are not looked at."""
        if problems := self._take(name, self._directory.read_one(name)):
            self._note_problems({**self.problems, **problems})

    def drop(self, key: documents.Key) -> None:
        """Mark as deleted what its file names no more; others that name it are seen at the next look. Raises Unavailable."""
        self._where.pop(key, None)
        self.keep(objects.mark_deleted(self.objects[key], now=self._now()))

    def keep(self, new: objects.Object) -> None:
        """Record the object, then make it known. Raises Unavailable, with nothing changed."""
        old = self.objects.get(new.record.key)
        if old is None or old.record != new.record:
            try:
                self._store.write(new.record)
            except OSError as error:
                raise errors.Unavailable(f"cannot record sandbox {new.record.key[1]}: {error.strerror}") from error
        self.objects[new.record.key] = new
        if old is None or old.sandbox != new.sandbox:
            self.changes.append(sources.Upsert(new.sandbox))
            self._wake()

    def forget(self, key: documents.Key) -> None:
        """The object is gone; a manifest of its name that waits becomes a new one."""
        self._store.remove(key)
        self.changes.append(sources.Gone(self.objects.pop(key).record.uid))
        self._wake()
        if key in self._where:
            self.scan()

    def _take(self, name: str, content: directory.Content) -> dict[tuple[str, documents.Key | None], sources.Invalid]:
        """Accept what one file says; what is wrong with it comes back."""
        problems = {}
        for item in content:
            if isinstance(item, documents.Entries):
                self.entries[item.kind, item.key] = item.entries
                continue
            problem = self._accept(item, name) if isinstance(item, documents.Document) else item.text
            if problem is not None:
                problems[name, item.key] = self._describe(name, item.key, problem)
        return problems

    def _accept(self, document: documents.Document, name: str) -> str | None:
        """Create or update the document's object; returns what is wrong with it, if anything."""
        key = document.key
        if key in self._where:
            return f"sandbox {key[1]} is in the file {self._where[key][0]} already: the first one counts"
        self._where[key] = (name, document.position)
        old = self.objects.get(key)
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
            self.keep(new)
        except errors.Unavailable as error:
            return str(error)
        return None

    def _is_taken(self, new: objects.Object) -> bool:
        return any(o.record.uid == new.record.uid and key != new.record.key for key, o in self.objects.items())

    def _remove_missing(self, problems: Mapping[tuple[str, documents.Key | None], sources.Invalid]) -> None:
        """Mark what no file names any more, on the second look: an editor may be replacing the file just now."""
        missing = objects.find_missing(self.objects, placed=self._where.keys(), problems=problems.keys())
        for key in missing & self._missing:
            with contextlib.suppress(errors.Unavailable):  # the next look tries again
                self.keep(objects.mark_deleted(self.objects[key], now=self._now()))
        self._missing = missing

    def _note_problems(self, problems: dict[tuple[str, documents.Key | None], sources.Invalid]) -> None:
        self.changes.extend(new for where, new in problems.items() if self.problems.get(where) != new)
        self.problems = problems

    def _describe(self, name: str, key: documents.Key | None, problem: str) -> sources.Invalid:
        if key is None:
            return sources.Invalid("", name, "", f"{name}: {problem}")
        found = self.objects.get(key)
        return sources.Invalid(key[0], key[1], found.record.uid if found else "", problem)
