"""The text of manifest files: parse, and change one object in place so that a person's comments stay. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from skerry_api import names, volumes
from skerry_api.errors import InvalidManifest
from skerry_api.volumes import ObjectKind

MAX_BYTES = 1 << 20
"""A manifest file may hold this much; etcd's own limit for an object is 1.5 MiB."""

DEFAULT_NAMESPACE = "default"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file; *position* counts the file's YAML documents from 0, the empty ones too."""

    key: Key
    position: int
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entries:
    """A ConfigMap or Secret of a file, for volumes."""

    key: Key
    kind: ObjectKind
    entries: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Problem:
    """A document, or a whole file, that is no object; *key* is None when nobody can tell which object it means."""

    key: Key | None
    text: str


def parse(data: bytes) -> tuple[Document | Entries | Problem, ...]:
    """The objects of a file, in order. Never raises: what is wrong is a Problem that names line or field."""
    if len(data) > MAX_BYTES:
        return (Problem(None, f"the file is larger than {MAX_BYTES} bytes: split it into several files"),)
    try:
        loaded = _load(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return (Problem(None, f"byte {error.start} is not UTF-8: save the file as UTF-8 text"),)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return (Problem(None, f"not valid YAML: {' '.join(str(error).split())}"),)
    return tuple(_identify(raw, position=position) for position, raw in enumerate(loaded) if raw is not None)


def load_one(data: bytes) -> Mapping[str, Any]:
    """The mapping that *data* holds. Raises ValueError."""
    try:
        raw = yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader, in C where libyaml is there
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(raw, dict):
        raise ValueError("not a mapping")  # noqa: TRY004 - one error for one bad file
    return raw


def render(raw: Mapping[str, Any]) -> str:
    """One object as YAML, keys in the order given."""
    text: str = yaml.dump(_plain(raw), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def set_spec(text: str, *, position: int, values: Mapping[str, str | int]) -> str:
    """*text* with these fields of one document's spec set, the rest, comments too, as it was where that is possible."""
    documents = _load(text)
    documents[position]["spec"].update(values)
    changed = text
    for name, value in values.items():
        changed = _with_field(changed, position=position, name=name, value=value)
    return changed if _says(changed, documents) else _dump(documents)


def without(text: str, *, position: int) -> str | None:
    """*text* less one document; None when no object is left and the file may go."""
    documents = _load(text)
    del documents[position]
    if all(document is None for document in documents):
        return None
    events: list[Any] = [event for event in yaml.parse(text) if isinstance(event, yaml.DocumentStartEvent)]
    starts = [event.start_mark.index for event in events]
    end = starts[position + 1] if position + 1 < len(starts) else len(text)
    changed = text[: starts[position]] + text[end:]
    return changed if _says(changed, documents) else _dump(documents)


def _identify(raw: object, *, position: int) -> Document | Entries | Problem:
    if not isinstance(raw, dict):
        return Problem(None, f"document {position + 1} is not a mapping: start with apiVersion, kind, metadata, spec")
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace", DEFAULT_NAMESPACE) if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not isinstance(namespace, str) or not name or not namespace:
        return Problem(None, f"document {position + 1}: metadata.name: missing or not text: give the sandbox a name")
    if raw.get("apiVersion") == "v1" and raw.get("kind") in set(ObjectKind):
        return _parse_entries(raw, (namespace, name))
    expected = (f"{names.GROUP}/{names.VERSION}", "Sandbox")
    if (raw.get("apiVersion"), raw.get("kind")) != expected:
        return Problem(
            (namespace, name),
            f"apiVersion, kind: must be {expected[0]} and {expected[1]}: only a ConfigMap or Secret of v1 may stand beside it",
        )
    return Document((namespace, name), position, raw)


def _parse_entries(raw: Mapping[str, Any], key: Key) -> Entries | Problem:
    kind = ObjectKind(raw["kind"])
    try:
        return Entries(key, kind, volumes.parse_entries(kind, raw))
    except InvalidManifest as error:
        return Problem(None, f"{kind} {key[1]}: {error}")


def _load(text: str) -> list[Any]:
    return list(yaml.load_all(text, Loader=_Loader))


def _dump(documents: list[Any]) -> str:
    text: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _says(text: str, documents: list[Any]) -> bool:
    try:
        return _load(text) == documents
    except yaml.YAMLError:
        return False


def _with_field(text: str, *, position: int, name: str, value: str | int) -> str:
    """Replace the value of spec's field, or put the field first in spec; JSON is YAML's flow style and stays JSON."""
    root = list(yaml.compose_all(text, Loader=yaml.SafeLoader))[position]
    spec = _find(root, "spec")
    if spec is None:
        return text
    written = json.dumps(value) if spec.flow_style else str(value)
    old = _find(spec, name)
    if old is not None:
        return text[: old.start_mark.index] + written + text[old.end_mark.index :]
    start = spec.start_mark
    if spec.flow_style:
        return f'{text[: start.index + 1]}"{name}": {written}, {text[start.index + 1 :]}'
    return f"{text[: start.index]}{name}: {written}\n{' ' * start.column}{text[start.index :]}"


def _find(mapping: Any, name: str) -> Any:
    if not isinstance(mapping, yaml.MappingNode):
        return None
    return next((value for key, value in mapping.value if key.value == name), None)


def _plain(value: object) -> object:
    """Tuples as lists and subclasses of str as str, which is all that the safe dumper knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
