"""Pieces of manifests and indexes as JSON has them: checked as they are read. Pure.

Source: OCI image-spec, descriptor.md, manifest.md, image-index.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from skerry_node.image.errors import InvalidLayout

MAX_JSON_BYTES = 4 << 20
"""OCI distribution-spec: registries hold manifests to 4 MiB."""
MANIFEST, CONFIG = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"
INDEX, LAYER = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.layer.v1.tar"
MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
NAME, CONTAINERD_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"
"""Annotations: a tag, or whatever the maker of the layout took it for; a whole reference."""
_DIGEST = re.compile(r"sha256:([a-f0-9]{64})")
_MAX_MEDIA_TYPE = 255


def parse_json(content: bytes, what: str) -> Mapping[str, Any]:
    """The object in *content*. Raises InvalidLayout."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidLayout(f"{what} is not JSON") from error
    if not isinstance(raw, Mapping):
        raise InvalidLayout(f"{what} is no object")
    return raw


def render_json(raw: object) -> bytes:
    """*raw*, always the same way: its digest is its name."""
    return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


def list_of(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The descriptors at *key*. Raises InvalidLayout."""
    value = raw.get(key)
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise InvalidLayout(f"{key} must be a list of descriptors")
    return value


def object_of(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The descriptor at *key*. Raises InvalidLayout."""
    value = raw.get(key)
    if not isinstance(value, Mapping):
        raise InvalidLayout(f"{key} must be a descriptor")
    return value


def digest_of(descriptor: Mapping[str, Any]) -> str:
    """Its digest. Raises InvalidLayout."""
    value = descriptor.get("digest")
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise InvalidLayout(f"{str(value)[:80]!r} is no sha256 digest")
    return value


def size_of(descriptor: Mapping[str, Any]) -> int:
    """Its size in bytes. Raises InvalidLayout."""
    value = descriptor.get("size")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidLayout(f"the size of {digest_of(descriptor)} is no number")
    return value


def media_type_of(descriptor: Mapping[str, Any]) -> str:
    """Its media type, bounded; empty when it says none."""
    return str(descriptor.get("mediaType", ""))[:_MAX_MEDIA_TYPE]


def annotations_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its annotations; none when they are no object."""
    value = raw.get("annotations")
    return value if isinstance(value, Mapping) else {}


def blob_name(digest: str) -> str:
    """Where an OCI layout has the blob (image-layout.md)."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
