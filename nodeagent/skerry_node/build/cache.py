"""What was built before: which layer an instruction gave on which layers. A record that names a layer that is gone is no record.

`KEY.json` in one directory, written beside and renamed. The stages themselves are kept from the store's sweeping as images of a name of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

from skerry_node.build.errors import BuildError
from skerry_node.image.errors import ImageNotFound
from skerry_node.image.record import Blob, Layer, layer_name
from skerry_node.image.store import Store

VERSION = 1
PREFIX = "localhost/skerry-build-cache"
"""The repository of images that only keep the layers of stages; `skerry image rm` removes them as any other."""
MAX_RECORDS, MAX_STAGES = 5000, 32
_STAGE = "stage-"


class Cache:
    """The records below *directory*. Any thread may use it."""

    def __init__(self, directory: str, store: Store) -> None:
        self._directory, self._store = directory, store
        os.makedirs(directory, mode=0o700, exist_ok=True)
        names = os.listdir(directory)
        for name in names if len(names) > MAX_RECORDS else [name for name in names if name.startswith(".")]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))

    def find(self, key: str) -> tuple[bool, Layer | None]:
        """Whether *key* is known, and the layer that it gave, which may be none."""
        try:
            with open(os.path.join(self._directory, key + ".json"), encoding="utf-8") as file:
                raw = json.load(file)
            if raw["version"] != VERSION:
                return False, None
            if raw["layer"] is None:
                return True, None
            found = Layer(**{**raw["layer"], "blob": Blob(**raw["layer"]["blob"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False, None
        is_whole = found.path == layer_name(found.diff_id) and self._store.has_layer(found.diff_id) == found.size_bytes
        has_blob = not self._store.keeps_blobs(is_local=True) or self._store.blobs.size(found.blob.digest) == found.blob.size_bytes
        return (True, found) if is_whole and has_blob else (False, None)

    def write(self, key: str, layer: Layer | None) -> None:
        """Note what *key* gave."""
        temporary = os.path.join(self._directory, f".{key}.{os.urandom(4).hex()}")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "layer": None if layer is None else dataclasses.asdict(layer)}, file)
        os.rename(temporary, os.path.join(self._directory, key + ".json"))

    def use_stage(self, reference: str) -> None:
        """Note that a build needed the stage now."""
        path = os.path.join(self._directory, _STAGE + reference.removeprefix(PREFIX + ":"))
        with open(path, "w", encoding="utf-8"):
            os.utime(path)

    def forget_beginnings(self, layers: Sequence[Layer]) -> None:
        """Let go of stages that *layers* go on from: the stage of *layers* keeps all that they have."""
        for image in self._store.list():
            length = len(image.layers)
            if is_stage(image.reference) and length < len(layers) and [each.path for each in image.layers] == [each.path for each in layers[:length]]:
                self._forget_stage(image.reference)

    def _forget_stage(self, reference: str) -> None:
        with contextlib.suppress(ImageNotFound):
            self._store.remove(reference)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, _STAGE + reference.removeprefix(PREFIX + ":")))

    def trim(self) -> None:
        """Let go of the stages that were not needed for longest, beyond MAX_STAGES."""
        stages = [image.reference for image in self._store.list() if is_stage(image.reference)]
        for reference in sorted(stages, key=self._used_at)[: max(len(stages) - MAX_STAGES, 0)]:
            self._forget_stage(reference)

    def _used_at(self, reference: str) -> float:
        try:
            return os.stat(os.path.join(self._directory, _STAGE + reference.removeprefix(PREFIX + ":"))).st_mtime
        except FileNotFoundError:
            return 0.0


def key_of(parts: Sequence[object]) -> str:
    """The name of a record: a digest of *parts*, plain values whose representation is their meaning."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode("utf-8", "surrogatepass")).hexdigest()


def stage_reference(layers: Sequence[Layer]) -> str:
    """The reference that keeps the layers of a stage."""
    return f"{PREFIX}:{key_of([each.diff_id for each in layers])}"


def check_name(name: str) -> None:
    """Raises BuildError for a name of this room: what it keeps is nobody's base, for it asks nobody's leave."""
    if name.startswith((PREFIX + ":", PREFIX + "@")) or name == PREFIX:
        raise BuildError(f"{PREFIX} keeps what builds remember; it is no image to build on")


def is_stage(reference: str) -> bool:
    """Whether *reference* is one of `stage_reference`."""
    return reference.startswith(PREFIX + ":")
