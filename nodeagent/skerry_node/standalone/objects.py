"""A manifest and its record together: the object as the API server would hold it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api import names
from skerry_api import sandbox as api
from skerry_api.errors import InvalidManifest
from skerry_node.standalone import documents, records

MAX_NAME = 170
"""A file's name holds 255 bytes; a namespace of 63, dots and the suffixes of records want the rest."""
_PEOPLES_METADATA = ("name", "namespace", "labels", "annotations")


@dataclass(frozen=True, slots=True)
class Object:
    """One sandbox of the directory; *raw* is the document it was last accepted from, None after a restart."""

    record: records.Record
    sandbox: api.Sandbox
    raw: Mapping[str, Any] | None

    def says(self, raw: Mapping[str, Any], file: str) -> bool:
        """Whether this very document of this file has been accepted already."""
        return self.raw == raw and self.record.file == file


def parse(raw: Mapping[str, Any], *, node_name: str | None) -> api.Sandbox:
    """A manifest from outside, with the defaults applied; what it says of identity and status is not read.

    Raises InvalidManifest.
    """
    sandbox = api.parse_sandbox(without_server_fields(raw))
    if len(sandbox.metadata.name) > MAX_NAME:
        raise InvalidManifest("metadata.name", f"write at most {MAX_NAME} characters: it becomes a file's name")
    wanted = sandbox.spec.node_name
    if node_name is None or wanted == node_name:
        return sandbox
    if wanted:
        raise InvalidManifest("spec.nodeName", f"names {wanted}, but this node is {node_name}: leave it out")
    return dataclasses.replace(sandbox, spec=dataclasses.replace(sandbox.spec, node_name=node_name))


def accept(
    document: documents.Document,
    *,
    old: Object | None,
    file: str,
    node_name: str | None,
    new_uid: Callable[[], str],
    now: Callable[[], str],
) -> Object | None:
    """The object that *document* makes of *old*; None when it asks for another uid, so that *old* has to go first.

    Raises InvalidManifest, also for a change of a field that the API server would not let change.
    """
    parsed = parse(document.raw, node_name=node_name)
    asked_uid = document.raw["metadata"].get("uid")
    if asked_uid is not None and not (isinstance(asked_uid, str) and names.is_uid(asked_uid)):
        raise InvalidManifest("metadata.uid", "leave it out: it is given")
    if old is None:
        record = records.Record(
            key=document.key,
            uid=new_uid() if asked_uid is None else asked_uid,
            generation=1,
            created=now(),
            deleted=None,
            file=file,
            manifest=_manifest(parsed),
        )
        return Object(record, _with_identity(parsed, record), document.raw)
    if asked_uid not in {None, old.record.uid}:
        return None
    _refuse_changes(old.sandbox.spec, parsed.spec)
    record = dataclasses.replace(
        old.record,
        generation=old.record.generation + (parsed.spec != old.sandbox.spec),
        file=file,
        manifest=_manifest(parsed),
    )
    parsed = dataclasses.replace(parsed, status=old.sandbox.status)
    return Object(record, _with_identity(parsed, record), document.raw)


def restore(record: records.Record, *, status: Mapping[str, Any] | None) -> Object:
    """The object as the last agent knew it. Raises InvalidManifest when another version wrote what this one refuses."""
    sandbox = api.parse_sandbox(record.manifest)
    if status is not None:
        sandbox = dataclasses.replace(sandbox, status=api.parse_status(status))
    return Object(record, _with_identity(sandbox, record), None)


def mark_deleted(found: Object, *, now: str) -> Object:
    """The object with a deletion timestamp."""
    record = dataclasses.replace(found.record, deleted=now)
    return dataclasses.replace(found, record=record, sandbox=_with_identity(found.sandbox, record))


def find_missing(
    known: Mapping[documents.Key, Object],
    *,
    placed: Collection[documents.Key],
    problems: Iterable[tuple[str, documents.Key | None]],
) -> set[documents.Key]:
    """The living objects that no file names; *problems* are by file, and by object where that is clear.

    A file with a document that nobody can identify keeps all of its objects.
    """
    problems = tuple(problems)
    unclear = {name for name, key in problems if key is None}
    named = {key for _, key in problems} | set(placed)
    return {key for key, found in known.items() if key not in named and found.record.deleted is None and found.record.file not in unclear}


def render(sandbox: api.Sandbox) -> dict[str, Any]:
    """The whole object as plain data, status included."""
    return dict(api.render_sandbox(sandbox))


def without_server_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What of a request belongs in a file: no identity, no status."""
    metadata = raw.get("metadata")
    if isinstance(metadata, Mapping):
        metadata = {name: value for name, value in metadata.items() if name in _PEOPLES_METADATA}
    return {
        "apiVersion": raw.get("apiVersion"),
        "kind": raw.get("kind"),
        "metadata": metadata,
        "spec": raw.get("spec"),
    }


def _manifest(sandbox: api.Sandbox) -> dict[str, Any]:
    rendered = render(sandbox)
    rendered.pop("status", None)
    return rendered


def _with_identity(sandbox: api.Sandbox, record: records.Record) -> api.Sandbox:
    metadata = dataclasses.replace(
        sandbox.metadata,
        namespace=record.key[0],
        uid=record.uid,
        generation=record.generation,
        resource_version=str(record.generation),
        finalizers=(names.FINALIZER,),
        creation_timestamp=record.created,
        deletion_timestamp=record.deleted,
    )
    return dataclasses.replace(sandbox, metadata=metadata)


def _refuse_changes(old: api.SandboxSpec, new: api.SandboxSpec) -> None:
    """The CRD's transition rules (crds/), which no API server checks here."""
    fixed = {
        "spec.image": old.image != new.image,
        "spec.command": old.command != new.command,
        "spec.args": old.args != new.args,
        "spec.env": old.env != new.env,
        "spec.workingDir": old.working_dir != new.working_dir,
        "spec.user": old.user != new.user,
        "spec.hostname": old.hostname != new.hostname,
        "spec.stdin": old.stdin != new.stdin,
        "spec.tty": old.tty != new.tty,
        "spec.security": old.security != new.security,
        "spec.volumes": old.volumes != new.volumes,
        "spec.volumeMounts": old.volume_mounts != new.volume_mounts,
        "spec.network.mode": old.network.mode != new.network.mode,
        "spec.init": old.init != new.init,
        "spec.network.ports": old.network.ports != new.network.ports,
        "spec.restartPolicy": old.restart_policy != new.restart_policy,
    }
    for field, is_changed in fixed.items():
        if is_changed:
            raise InvalidManifest(field, "cannot change: delete the sandbox and create it again")
