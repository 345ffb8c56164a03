"""Volumes of a sandbox as values, with their parsing and rendering: what pods call by the same names means the same here. Pure."""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api import fields, names, quantities
from skerry_api.errors import InvalidManifest
from skerry_api.fields import Raw

MAX_VOLUMES, MAX_ITEMS = 32, 256
_MAX_ENTRY = 1 << 21
DEFAULT_MODE = 0o644
MIN_SIZE_BYTES = 1 << 20
_SOURCES = frozenset({"emptyDir", "configMap", "secret", "hostPath"})
_CLOSED = ("/proc", "/sys", "/dev")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


class ObjectKind(enum.StrEnum):
    """An object of the cluster whose entries become files."""

    CONFIG_MAP = "ConfigMap"
    SECRET = "Secret"  # noqa: S105 - the name of a kind


@dataclass(frozen=True, slots=True)
class EmptyDir:
    """An empty directory that lives as long as the sandbox; None is no limit."""

    size_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of an object, and the relative path of its file."""

    key: str
    path: str


@dataclass(frozen=True, slots=True)
class Projection:
    """The entries of a ConfigMap or Secret as files, all of them where *items* is empty. An optional one may be missing."""

    kind: ObjectKind
    name: str
    items: tuple[Item, ...] = ()
    mode: int = DEFAULT_MODE
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class HostPath:
    """A directory or file of the node, where its policy admits that."""

    path: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume, and the name that mounts call it by."""

    name: str
    source: EmptyDir | Projection | HostPath


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """Where a volume, or *sub_path* below it, appears. *path* is absolute and normal."""

    volume: str
    path: str
    is_read_only: bool = False
    sub_path: str = ""


def parse_volumes(raw: Raw) -> tuple[Volume, ...]:
    """`volumes` of a spec. Raises InvalidManifest."""
    found: dict[str, Volume] = {}
    for path, entry in _entries(raw, "volumes", MAX_VOLUMES, "{name: data, emptyDir: {}}"):
        fields.refuse_unknown(entry, path, _SOURCES | {"name"})
        name = fields.text(entry, "name", path, limit=63)
        if name is None or not names.is_dns_label(name):
            raise InvalidManifest(f"{path}.name", "write a name of lower-case letters, digits and dashes")
        if name in found:
            raise InvalidManifest(f"{path}.name", f"there is a volume {name} already; give each a name of its own")
        given = [key for key in sorted(_SOURCES) if entry.get(key) is not None]
        if len(given) != 1:
            raise InvalidManifest(path, "write one of configMap, emptyDir, hostPath, secret")
        found[name] = Volume(name=name, source=_parse_source(given[0], fields.section(entry, given[0], path), f"{path}.{given[0]}"))
    return tuple(found.values())


def parse_mounts(raw: Raw, volumes: tuple[Volume, ...]) -> tuple[VolumeMount, ...]:
    """`volumeMounts` of a spec, each of one of *volumes*. Raises InvalidManifest."""
    known = {volume.name for volume in volumes}
    found: dict[str, VolumeMount] = {}
    for path, entry in _entries(raw, "volumeMounts", MAX_VOLUMES, "{name: data, mountPath: /data}"):
        fields.refuse_unknown(entry, path, frozenset({"name", "mountPath", "readOnly", "subPath"}))
        name = fields.text(entry, "name", path, limit=63)
        if name not in known:
            raise InvalidManifest(f"{path}.name", "write the name of one of spec.volumes")
        target = _parse_mount_path(fields.text(entry, "mountPath", path), f"{path}.mountPath")
        if target in found:
            raise InvalidManifest(f"{path}.mountPath", f"something is mounted at {target} already")
        found[target] = VolumeMount(
            volume=str(name), path=target, is_read_only=fields.flag(entry, "readOnly", path), sub_path=_parse_sub_path(entry, "subPath", path)
        )
    return tuple(found.values())


def parse_entries(kind: ObjectKind, raw: Raw) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret, as the API server or a person writes it. Raises InvalidManifest."""
    plain, coded = ("data", "binaryData") if kind is ObjectKind.CONFIG_MAP else ("stringData", "data")
    found = {key: _decode(value, f"{coded}.{key}") for key, value in fields.section(raw, coded, "").items()}
    for key, value in fields.section(raw, plain, "").items():
        found[key] = fields.checked_text(value, f"{plain}.{key}", limit=_MAX_ENTRY).encode()
    for key in found:
        if not isinstance(key, str) or _KEY.fullmatch(key) is None or key == "." or key.startswith(".."):
            raise InvalidManifest(f"data.{key}", "write keys of letters, digits, '-', '_' and '.', not beginning with '..'")
    return found


def _decode(value: object, field: str) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except ValueError as error:
        raise InvalidManifest(field, "write base64") from error


def render_volume(value: Volume) -> dict[str, Any]:
    """One entry of `volumes`."""
    source = value.source
    if isinstance(source, EmptyDir):
        size = {} if source.size_limit_bytes is None else {"sizeLimit": quantities.render_memory(source.size_limit_bytes)}
        return {"name": value.name, "emptyDir": size}
    if isinstance(source, HostPath):
        return {"name": value.name, "hostPath": {"path": source.path}}
    body: dict[str, Any] = {"name" if source.kind is ObjectKind.CONFIG_MAP else "secretName": source.name}
    if source.items:
        body["items"] = [{"key": item.key, "path": item.path} for item in source.items]
    if source.mode != DEFAULT_MODE:
        body["defaultMode"] = source.mode
    if source.is_optional:
        body["optional"] = True
    return {"name": value.name, "configMap" if source.kind is ObjectKind.CONFIG_MAP else "secret": body}


def render_mount(value: VolumeMount) -> dict[str, Any]:
    """One entry of `volumeMounts`."""
    body: dict[str, Any] = {"name": value.volume, "mountPath": value.path}
    if value.is_read_only:
        body["readOnly"] = True
    if value.sub_path:
        body["subPath"] = value.sub_path
    return body


def _entries(raw: Raw, key: str, count: int, example: str) -> list[tuple[str, Raw]]:
    entries = raw.get(key) or []
    if not isinstance(entries, list) or len(entries) > count:
        raise InvalidManifest(f"spec.{key}", f"write a list of at most {count} entries")
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise InvalidManifest(f"spec.{key}[{place}]", f"write {example}")
    return [(f"spec.{key}[{place}]", entry) for place, entry in enumerate(entries)]


def _parse_source(kind: str, raw: Raw, path: str) -> EmptyDir | Projection | HostPath:
    if kind == "emptyDir":
        fields.refuse_unknown(raw, path, frozenset({"sizeLimit"}))
        size = fields.quantity(raw, "sizeLimit", path, quantities.parse_memory_bytes)
        if size is not None and size < MIN_SIZE_BYTES:
            raise InvalidManifest(f"{path}.sizeLimit", "write at least 1Mi")
        return EmptyDir(size_limit_bytes=size)
    if kind == "hostPath":
        fields.refuse_unknown(raw, path, frozenset({"path"}))
        return HostPath(path=_parse_normal_path(fields.text(raw, "path", path), f"{path}.path", example="/srv/data"))
    return _parse_projection(kind, raw, path)


def _parse_projection(kind: str, raw: Raw, path: str) -> Projection:
    key = "name" if kind == "configMap" else "secretName"
    fields.refuse_unknown(raw, path, frozenset({key, "items", "defaultMode", "optional"}))
    name = fields.text(raw, key, path, limit=253)
    if name is None or not names.is_dns_subdomain(name):
        raise InvalidManifest(f"{path}.{key}", "write the name of an object in this namespace")
    mode = fields.number(raw, "defaultMode", path, low=0, high=0o777)
    return Projection(
        kind=ObjectKind.CONFIG_MAP if kind == "configMap" else ObjectKind.SECRET,
        name=name,
        items=_parse_items(raw, path),
        mode=DEFAULT_MODE if mode is None else mode,
        is_optional=fields.flag(raw, "optional", path),
    )


def _parse_items(raw: Raw, path: str) -> tuple[Item, ...]:
    entries = raw.get("items") or []
    if not isinstance(entries, list) or len(entries) > MAX_ITEMS:
        raise InvalidManifest(f"{path}.items", f"write a list of at most {MAX_ITEMS} items")
    found: dict[str, Item] = {}
    for place, entry in enumerate(entries):
        here = f"{path}.items[{place}]"
        if not isinstance(entry, Mapping):
            raise InvalidManifest(here, "write {key: K, path: P}")
        fields.refuse_unknown(entry, here, frozenset({"key", "path"}))
        key = fields.text(entry, "key", here, limit=253)
        if key is None or _KEY.fullmatch(key) is None:
            raise InvalidManifest(f"{here}.key", "write a key of the object")
        target = _parse_sub_path(entry, "path", here)
        if not target or target in found or any(part.startswith("..") for part in target.split("/")):
            raise InvalidManifest(f"{here}.path", "write a relative path of its own, for example config.ini")
        found[target] = Item(key=key, path=target)
    return tuple(found.values())


def _parse_sub_path(raw: Raw, key: str, path: str) -> str:
    text = fields.text(raw, key, path) or ""
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith("/") or ".." in parts:
        raise InvalidManifest(f"{path}.{key}", "write a relative path without '..'")
    return "/".join(parts)


def _parse_mount_path(text: str | None, path: str) -> str:
    normal = _parse_normal_path(text, path, example="/data")
    if any(normal == closed or normal.startswith(closed + "/") for closed in _CLOSED):
        raise InvalidManifest(path, "write a path outside /proc, /sys and /dev")
    return normal


def _parse_normal_path(text: str | None, path: str, *, example: str) -> str:
    parts = [part for part in (text or "").split("/") if part not in {"", "."}]
    if text is None or not text.startswith("/") or ".." in parts or not parts:
        raise InvalidManifest(path, f"write an absolute path without '..', other than /, for example {example}")
    return "/" + "/".join(parts)
