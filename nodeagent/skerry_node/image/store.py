"""The image store: sealed layers by diff id, and a record for each reference. Files are the truth; a record is complete or not there.

`layers/<sha256 of the tar>.erofs`, each stored once however many images share it; `images/<sha256 of the reference>.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from skerry_node.image import base
from skerry_node.image import reference as references
from skerry_node.image.config import ImageConfig
from skerry_node.image.errors import ImageNotFound, InvalidReference

VERSION = 1
_SUFFIX = ".erofs"
_LAYER_NAME = re.compile(r"[a-f0-9]{64}\.erofs")
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidReference)


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
    """The store below *root*, mode 0700. One process writes, from any thread; opening sweeps what a crash left."""

    def __init__(self, root: str) -> None:
        for path in (root, os.path.join(root, "layers"), os.path.join(root, "images")):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self.layers_dir = os.path.join(root, "layers")
        self._images_dir = os.path.join(root, "images")
        self.layers_fd = os.open(self.layers_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._images: dict[str, Image] = {}
        self._held: Counter[str] = Counter()
        self._sweep()
        base.ensure(self.layers_fd)
        self._load()
        self._drop_unused(name for name in os.listdir(self.layers_dir) if _LAYER_NAME.fullmatch(name))

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
            images = tuple(self._images.values())
            found = next((image for image in images if image.digest == wanted.digest), None)
        return found

    def close(self) -> None:
        """Give up the directory's descriptor; the store is of no use afterwards."""
        os.close(self.layers_fd)

    @contextlib.contextmanager
    def hold(self, diff_ids: Iterable[str]) -> Iterator[None]:
        """Keep these layers, there or to come, while an image is brought in; those that no image uses at the end go."""
        names = {layer_name(diff_id) for diff_id in diff_ids}
        with self._lock:
            self._held.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(names)
                self._drop_unused(names)

    def has_layer(self, diff_id: str) -> int | None:
        """Give the size of the sealed layer of *diff_id*, None when it is not here."""
        try:
            return os.stat(layer_name(diff_id), dir_fd=self.layers_fd).st_size
        except FileNotFoundError:
            return None

    def add(self, image: Image) -> None:
        """Make *image* visible under its reference; its layers are sealed, and held by the caller."""
        path = self._record_path(image.reference)
        with self._lock:
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                json.dump({"version": VERSION, **dataclasses.asdict(image)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(path + ".tmp", path)
            before = self._images.get(image.reference)
            self._images[image.reference] = image
            if before is not None:
                self._drop_unused(layer.path for layer in before.layers)

    def remove(self, text: str) -> tuple[str, ...]:
        """Forget the image, and delete the layers that no other uses; returns their file names. Raises ImageNotFound."""
        with self._lock:
            image = self.find(text)
            if image is None:
                raise ImageNotFound(f"no image {text!r} here; `skerry image ls` shows those there are")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._record_path(image.reference))
            del self._images[image.reference]
            return self._drop_unused(layer.path for layer in image.layers)

    def _drop_unused(self, names: Iterable[str]) -> tuple[str, ...]:
        used = {layer.path for image in self._images.values() for layer in image.layers}
        gone = tuple(name for name in names if name not in used and self._held[name] <= 0)
        for name in gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.layers_fd)
            self._held.pop(name, None)
        return gone

    def _record_path(self, reference: str) -> str:
        return os.path.join(self._images_dir, hashlib.sha256(reference.encode()).hexdigest() + ".json")

    def _sweep(self) -> None:
        for directory in (self.layers_dir, self._images_dir):
            for name in os.listdir(directory):
                if name.startswith(".") or name.endswith(".tmp"):
                    os.unlink(os.path.join(directory, name))

    def _load(self) -> None:
        """Read the records; one that is damaged, or lacks a layer, is as if it were not there: importing brings it back."""
        for name in os.listdir(self._images_dir):
            with (
                open(os.path.join(self._images_dir, name), encoding="utf-8") as file,
                contextlib.suppress(*_UNREADABLE),
            ):
                image = _parse(json.load(file))
                if all(self.has_layer(layer.diff_id) == layer.size_bytes for layer in image.layers):
                    self._images[image.reference] = image

    def list(self) -> list[Image]:
        """Every image, by reference."""
        images = dict(self._images)
        return [images[name] for name in sorted(images)]


def layer_name(diff_id: str) -> str:
    """Name the file of a sealed layer."""
    return diff_id.removeprefix("sha256:") + _SUFFIX


def _parse(raw: Any) -> Image:
    if raw["version"] != VERSION:
        raise ValueError("a record of another version")
    config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw["config"].items()}
    image = Image(
        reference=str(references.parse(raw["reference"])),
        digest=raw["digest"],
        config=ImageConfig(**config),
        layers=tuple(Layer(**layer) for layer in raw["layers"]),
    )
    if any(layer.path != layer_name(layer.diff_id) or _LAYER_NAME.fullmatch(layer.path) is None for layer in image.layers):
        raise ValueError("a record with a layer of another name")
    return image
