"""Variables of a program's environment: a value, or where the node finds one, in the words of pods. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api import fields, names
from skerry_api.errors import InvalidManifest
from skerry_api.fields import Raw
from skerry_api.volumes import ObjectKind

MAX_VARIABLES = 256
MAX_VALUE = 131_072
"""Characters: what Linux takes for one string of an environment (MAX_ARG_STRLEN, execve(2))."""
_SOURCES = {"configMapKeyRef": ObjectKind.CONFIG_MAP, "secretKeyRef": ObjectKind.SECRET}
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_METADATA = re.compile(r"metadata\.(labels|annotations)\['([-._/a-zA-Z0-9]{1,317})'\]")
PLAIN_FIELDS = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "status.address", "status.podIP")
"""What a fieldRef may name, besides labels and annotations. The last one is pods' word for the one before it."""


@dataclass(frozen=True, slots=True)
class KeyRef:
    """An entry of a ConfigMap or Secret of the sandbox's namespace. An optional one that is missing leaves the variable out."""

    kind: ObjectKind
    name: str
    key: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field of the sandbox's own object: one of PLAIN_FIELDS, or the *group* (labels, annotations) and *key* of a word of its metadata."""

    path: str
    group: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One variable of the program's environment."""

    name: str
    value: str = ""
    source: KeyRef | FieldRef | None = None
    """Where its value is found at each start; None: it is *value*."""


def parse_env(raw: Raw) -> tuple[EnvVar, ...]:
    """`env` of a spec; of those of one name the last one counts. Raises InvalidManifest."""
    entries = raw.get("env") or []
    if not isinstance(entries, list) or len(entries) > MAX_VARIABLES:
        raise InvalidManifest("spec.env", f"write a list of at most {MAX_VARIABLES} variables")
    found: dict[str, EnvVar] = {}
    for place, entry in enumerate(entries):
        path = f"spec.env[{place}]"
        if not isinstance(entry, Mapping):
            raise InvalidManifest(path, "write {name: A, value: b}")
        fields.refuse_unknown(entry, path, frozenset({"name", "value", "valueFrom"}))
        name = fields.text(entry, "name", path, limit=256)
        if name is None or not names.is_env_name(name):
            raise InvalidManifest(f"{path}.name", "write a name of letters, digits, '_', '-' and '.', not starting with a digit")
        value = fields.text(entry, "value", path, limit=MAX_VALUE) or ""
        if value and entry.get("valueFrom") is not None:
            raise InvalidManifest(path, "write value or valueFrom, not both")
        source = None if entry.get("valueFrom") is None else _parse_source(fields.section(entry, "valueFrom", path), f"{path}.valueFrom")
        found[name] = EnvVar(name=name, value=value, source=source)
    return tuple(found.values())


def render_variable(value: EnvVar) -> dict[str, Any]:
    """One entry of `env`."""
    source = value.source
    if source is None:
        return {"name": value.name, "value": value.value}
    if isinstance(source, FieldRef):
        return {"name": value.name, "valueFrom": {"fieldRef": {"fieldPath": source.path}}}
    word = next(word for word, kind in _SOURCES.items() if kind is source.kind)
    reference = {"name": source.name, "key": source.key} | ({"optional": True} if source.is_optional else {})
    return {"name": value.name, "valueFrom": {word: reference}}


def _parse_source(raw: Raw, path: str) -> KeyRef | FieldRef:
    fields.refuse_unknown(raw, path, frozenset({*_SOURCES, "fieldRef"}))
    given = [word for word in (*_SOURCES, "fieldRef") if raw.get(word) is not None]
    if len(given) != 1:
        raise InvalidManifest(path, "write one of configMapKeyRef, fieldRef, secretKeyRef")
    here = f"{path}.{given[0]}"
    entry = fields.section(raw, given[0], path)
    return _parse_field(entry, here) if given[0] == "fieldRef" else _parse_key(entry, here, _SOURCES[given[0]])


def _parse_field(raw: Raw, path: str) -> FieldRef:
    fields.refuse_unknown(raw, path, frozenset({"fieldPath"}))
    text = fields.text(raw, "fieldPath", path) or ""
    if text in PLAIN_FIELDS:
        return FieldRef(path=text)
    match = _METADATA.fullmatch(text)
    if match is None:
        raise InvalidManifest(f"{path}.fieldPath", f"write one of {', '.join(PLAIN_FIELDS)}, metadata.labels['KEY'], metadata.annotations['KEY']")
    return FieldRef(path=text, group=match[1], key=match[2])


def _parse_key(raw: Raw, path: str, kind: ObjectKind) -> KeyRef:
    fields.refuse_unknown(raw, path, frozenset({"name", "key", "optional"}))
    name = fields.text(raw, "name", path, limit=253)
    if name is None or not names.is_dns_subdomain(name):
        raise InvalidManifest(f"{path}.name", "write the name of an object in this namespace")
    key = fields.text(raw, "key", path, limit=253)
    if key is None or _KEY.fullmatch(key) is None:
        raise InvalidManifest(f"{path}.key", "write a key of the object")
    return KeyRef(kind=kind, name=name, key=key, is_optional=fields.flag(raw, "optional", path))
