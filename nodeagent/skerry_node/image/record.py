"""What the store remembers of an image: one record for each reference. Pure: values, and how they are written and read."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from skerry_node.image import reference as references
from skerry_node.image.config import ImageConfig
from skerry_node.image.errors import InvalidReference

VERSION = 2
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidReference)
"""What `parse` raises for a record that is damaged or of another version."""
_SUFFIX = ".erofs"
_LAYER_NAME = re.compile(r"[a-f0-9]{64}\.erofs")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as its descriptor promises it."""

    digest: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Layer:
    """A sealed layer: *path* is its file name below the store's layers directory, *seal* what `sealing.seal` says of that file.

    *blob* is what it was made from: its bytes are in the store or not (`Store.has_blob`).
    """

    diff_id: str
    size_bytes: int
    path: str
    seal: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here, whole. Layers are lowest first. Manifest and config are always in the store as blobs, byte for byte.

    *is_local* says that no registry has it: it was imported, built or committed here.
    """

    reference: str
    digest: str
    media_type: str
    manifest_bytes: int
    config_blob: Blob
    config: ImageConfig
    layers: tuple[Layer, ...]
    is_local: bool

    @property
    def size_bytes(self) -> int:
        """What its layers take, shared or not."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Manifest, config and layers, as a registry would hold them."""
        manifest = Blob(self.digest, self.manifest_bytes, self.media_type)
        return (manifest, self.config_blob, *(layer.blob for layer in self.layers))


def layer_name(diff_id: str) -> str:
    """Name the file of a sealed layer."""
    return diff_id.removeprefix("sha256:") + _SUFFIX


def is_layer_name(name: str) -> bool:
    """Whether *name* is one that `layer_name` gives."""
    return _LAYER_NAME.fullmatch(name) is not None


def is_digest(text: object) -> bool:
    """Whether *text* is a sha256 digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def render(image: Image) -> str:
    """*image* as JSON."""
    return json.dumps({"version": VERSION, **dataclasses.asdict(image)})


def parse(text: str) -> Image:
    """The image in a record. Raises one of UNREADABLE."""
    raw: Any = json.loads(text)
    if raw["version"] != VERSION:
        raise ValueError("a record of another version")
    config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw["config"].items()}
    image = Image(
        reference=str(references.parse(raw["reference"])),
        digest=raw["digest"],
        media_type=raw["media_type"],
        manifest_bytes=raw["manifest_bytes"],
        config_blob=Blob(**raw["config_blob"]),
        config=ImageConfig(**config),
        layers=tuple(Layer(**{**layer, "blob": Blob(**layer["blob"])}) for layer in raw["layers"]),
        is_local=raw["is_local"],
    )
    if any(layer.path != layer_name(layer.diff_id) or not is_layer_name(layer.path) for layer in image.layers):
        raise ValueError("a record with a layer of another name")
    if not all(is_digest(blob.digest) and isinstance(blob.size_bytes, int) for blob in image.blobs):
        raise ValueError("a record with a digest that is none")
    return image
