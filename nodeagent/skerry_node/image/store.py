"""The image store: sealed layers by diff id, and a record for each reference. Files are the truth; a record is complete or not there.

`layers/<sha256 of the tar>.erofs`, each stored once however many images share it; `images/<sha256 of the reference>.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass

from skerry_node.image import base
from skerry_node.image import reference as references
from skerry_node.image.config import ImageConfig
from skerry_node.image.errors import ImageNotFound, InvalidReference

VERSION = 1
_SUFFIX = ".erofs"


@dataclass(frozen=True, slots=True)
class Layer:
    """A sealed layer: *path* is its file name below the store's layers directory."""

    diff_id: str
    size_bytes: int
    path: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here, whole. Layers are lowest first."""

    reference: str
    digest: str
    config: ImageConfig
    layers: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        """What its layers take, shared or not."""
        return sum(layer.size_bytes for layer in self.layers)


class Store:
    """The store below *root*, mode 0700. One process writes; opening sweeps what a crash left."""

    def __init__(self, root: str) -> None:
        for path in (root, os.path.join(root, "layers"), os.path.join(root, "images")):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self.layers_dir = os.path.join(root, "layers")
        self._images_dir = os.path.join(root, "images")
        self.layers_fd = os.open(self.layers_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._images: dict[str, Image] = {}
        self._sweep()
        base.ensure(self.layers_fd)
        self._load()

    def find(self, text: str) -> Image | None:
        """The image that *text* names, by tag or by digest; None when it is not here or no name. From memory: cheap."""
        found = self._images.get(text)
        if found is not None:
            return found
        try:
            wanted = references.parse(text)
        except InvalidReference:
            return None
        found = self._images.get(str(wanted))
        if found is None and wanted.digest is not None:
            found = next((image for image in self._images.values() if image.digest == wanted.digest), None)
        return found

    def list(self) -> list[Image]:
        """Every image, by reference."""
        return [self._images[name] for name in sorted(self._images)]

    def has_layer(self, diff_id: str) -> int | None:
        """The size of the sealed layer of *diff_id*, None when it is not here."""
        try:
            return os.stat(layer_name(diff_id), dir_fd=self.layers_fd).st_size
        except FileNotFoundError:
            return None

    def add(self, image: Image) -> None:
        """Make *image* visible under its reference; its layers are sealed already."""
        path = self._record_path(image.reference)
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, **dataclasses.asdict(image)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".tmp", path)
        self._images[image.reference] = image

    def remove(self, text: str) -> tuple[str, ...]:
        """Forget the image, and delete the layers that no other uses: their file names are returned. Raises ImageNotFound."""
        image = self.find(text)
        if image is None:
            raise ImageNotFound(f"no image {text!r} here; `skerry image ls` shows those there are")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._record_path(image.reference))
        del self._images[image.reference]
        used = {layer.path for other in self._images.values() for layer in other.layers}
        gone = tuple(layer.path for layer in image.layers if layer.path not in used)
        for path in gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path, dir_fd=self.layers_fd)
        return gone

    def _record_path(self, reference: str) -> str:
        return os.path.join(self._images_dir, hashlib.sha256(reference.encode()).hexdigest() + ".json")

    def _sweep(self) -> None:
        for directory in (self.layers_dir, self._images_dir):
            for name in os.listdir(directory):
                if name.startswith(".") or name.endswith(".tmp"):
                    os.unlink(os.path.join(directory, name))

    def _load(self) -> None:
        """Read the records; one that is damaged, or lacks a layer, is as if it were not there: it comes back by importing."""
        for name in os.listdir(self._images_dir):
            with open(os.path.join(self._images_dir, name), encoding="utf-8") as file, contextlib.suppress(ValueError, KeyError, TypeError):
                image = _parse(json.load(file))
                if all(self.has_layer(layer.diff_id) == layer.size_bytes for layer in image.layers):
                    self._images[image.reference] = image


def layer_name(diff_id: str) -> str:
    """The file name of a sealed layer."""
    return diff_id.removeprefix("sha256:") + _SUFFIX


def _parse(raw: dict[str, object]) -> Image:
    if raw.pop("version") != VERSION:
        raise ValueError("a record of another version")
    config = raw["config"]
    layers = raw["layers"]
    assert isinstance(config, dict)
    assert isinstance(layers, list)
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return Image(
        reference=str(raw["reference"]),
        digest=str(raw["digest"]),
        config=ImageConfig(**lists),
        layers=tuple(Layer(**layer) for layer in layers),
    )
