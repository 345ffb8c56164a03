"""What `docker save` writes, seen as an OCI layout: its manifest.json names configs and layers, from which manifests are made here.

The same archive gives the same manifest, and so the same digest. Source: moby's image/tarexport, and its specification v1.2.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
from collections.abc import Mapping
from typing import Any, BinaryIO

from skerry_node.image import descriptors, layouts
from skerry_node.image.errors import InvalidLayout

MANIFEST_FILE = "manifest.json"
_MAX_IMAGES, _MAX_LAYERS, _MAX_TAGS = 100, 500, 100
_PIECE_BYTES = 1 << 20
_PACKINGS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


class DockerArchive(layouts.Files):
    """The archive in *tar* as a layout: index.json and manifests are made, configs and layers are the archive's own members."""

    def __init__(self, tar: layouts.Tar) -> None:
        self._tar = tar
        self._made: dict[str, bytes] = {}
        self._members: dict[str, str] = {}
        self._described: dict[str, dict[str, Any]] = {}
        images = _parse(tar.read_file(MANIFEST_FILE))
        entries = [entry for image in images for entry in self._describe_image(image)]
        self._made["index.json"] = descriptors.render_json({"schemaVersion": 2, "mediaType": descriptors.INDEX, "manifests": entries})

    def has_file(self, name: str) -> bool:
        """Whether it was made, or the archive has it."""
        return name in self._made or name in self._members

    def open_file(self, name: str) -> BinaryIO:
        """Open what was made, or the member that it stands for."""
        if name in self._made:
            return io.BytesIO(self._made[name])
        if name not in self._members:
            raise InvalidLayout(f"the archive has no {name}")
        return self._tar.open_file(self._members[name])

    def _describe_image(self, image: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Index entries for each of the image's tags; one without a name when it has none."""
        config = self._describe(_text(image, "Config"), descriptors.CONFIG)
        layers = [self._describe(name, descriptors.LAYER) for name in _texts(image, "Layers", _MAX_LAYERS)]
        body = {"schemaVersion": 2, "mediaType": descriptors.MANIFEST, "config": config, "layers": layers}
        manifest = descriptors.render_json(body)
        entry = {"mediaType": descriptors.MANIFEST, "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}", "size": len(manifest)}
        self._made[descriptors.blob_name(str(entry["digest"]))] = manifest
        tags = _texts(image, "RepoTags", _MAX_TAGS)
        return [{**entry, "annotations": {descriptors.CONTAINERD_NAME: tag}} for tag in tags] or [entry]

    def _describe(self, name: str, media_type: str) -> dict[str, Any]:
        """Descriptor of a member; a layer's media type says how it is packed. Reads it whole, once."""
        member = self._resolve(name)
        found = self._described.get(member)
        if found is None:
            total, size, head = hashlib.sha256(), 0, b""
            with self._tar.open_file(member) as file:
                while piece := file.read(_PIECE_BYTES):
                    head = head or piece[:4]
                    total.update(piece)
                    size += len(piece)
            packing = next((suffix for magic, suffix in _PACKINGS.items() if head.startswith(magic)), "")
            kind = media_type + packing if media_type == descriptors.LAYER else media_type
            found = self._described[member] = {"mediaType": kind, "digest": f"sha256:{total.hexdigest()}", "size": size}
            self._members[descriptors.blob_name(found["digest"])] = member
        return found

    def _resolve(self, name: str) -> str:
        """The member that *name* means: older archives have one of two equal layers as a link to the other."""
        target = self._tar.links.get(name)
        return name if target is None else posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _parse(content: bytes) -> list[Mapping[str, Any]]:
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidLayout(f"{MANIFEST_FILE} is not JSON") from error
    if not isinstance(raw, list) or not 0 < len(raw) <= _MAX_IMAGES or not all(isinstance(each, Mapping) for each in raw):
        raise InvalidLayout(f"{MANIFEST_FILE} must be a list of 1 to {_MAX_IMAGES} images")
    return raw


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise InvalidLayout(f"{key} in {MANIFEST_FILE} must be a member's name")
    return value


def _texts(raw: Mapping[str, Any], key: str, limit: int) -> list[str]:
    value = raw.get(key) or []
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(each, str) for each in value):
        raise InvalidLayout(f"{key} in {MANIFEST_FILE} must be a list of at most {limit} names")
    return value
