"""The image store: sealed layers by diff id, blobs by digest, a record for each reference. Files are the truth; a record is complete or absent.

`layers/<sha256 of the tar>.erofs` and `blobs/sha256/HEX`, each stored once however many images share it; `images/<sha256 of the reference>.json`;
`proofs/`, who has proved access. Several references to one image are several records that share everything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from skerry_node.image import base, record
from skerry_node.image import reference as references
from skerry_node.image.blobs import Blobs, sync_directory
from skerry_node.image.errors import ImageNotFound, InvalidReference
from skerry_node.image.proofs import Proofs
from skerry_node.image.record import Blob, Image, Layer, layer_name
from skerry_node.image.verified import Verified
from skerry_node.image.workers import Nursery
from skerry_node.settings import KeepBlobs

_LOG = logging.getLogger("skerry.images")
__all__ = ["Blob", "Image", "Layer", "Store", "layer_name"]


class Store:
    """The store below *root*, mode 0700. One process writes, from any thread; opening sweeps what a crash left."""

    def __init__(self, root: str, *, keep_blobs: KeepBlobs = KeepBlobs.LOCAL) -> None:
        for path in (root, os.path.join(root, "layers"), os.path.join(root, "images")):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self.layers_dir = os.path.join(root, "layers")
        self._images_dir = os.path.join(root, "images")
        self.layers_fd = os.open(self.layers_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.blobs = Blobs(os.path.join(root, "blobs"))
        self.proofs = Proofs(os.path.join(root, "proofs"))
        self.nursery = Nursery()
        self.verified = Verified(self.layers_fd)
        self._has_told_verity = False
        self._keep_blobs = keep_blobs
        self._lock = threading.Lock()
        self._images: dict[str, Image] = {}
        self._broken: dict[str, Image] = {}
        self._held: Counter[str] = Counter()
        self._sweep()
        base.ensure(self.layers_fd)
        self._load()
        self._drop_unused([*(name for name in os.listdir(self.layers_dir) if record.is_layer_name(name)), *self.blobs.list()])
        self.proofs.keep(image.digest for image in self._all())

    @property
    def images(self) -> tuple[Image, ...]:
        """Every image that is whole, by reference."""
        images = dict(self._images)
        return tuple(images[name] for name in sorted(images))

    @property
    def broken(self) -> tuple[Image, ...]:
        """Images that lack a layer which was lost or found damaged: bringing one in again fetches that layer only."""
        return tuple(self._broken.values())

    @property
    def used_bytes(self) -> int:
        """What the layers of all images take, shared ones counted once."""
        return sum({layer.path: layer.size_bytes for image in self._all() for layer in image.layers}.values())

    def list(self) -> list[Image]:
        """Every image that is whole, by reference."""
        return list(self.images)

    def find(self, text: str) -> Image | None:
        """The image that *text* names, by tag or by digest; None when it is not here or no name. From memory: cheap."""
        return _find(self._images, text)

    def references(self, digest: str) -> tuple[str, ...]:
        """Every reference to the image of this manifest digest."""
        return tuple(image.reference for image in self.images if image.digest == digest)

    def close(self) -> None:
        """Give up the directory's descriptor and end the converters; the store is of no use afterwards."""
        self.nursery.close()
        os.close(self.layers_fd)

    @contextlib.contextmanager
    def hold(self, diff_ids: Iterable[str], *, blobs: Iterable[str] = ()) -> Iterator[None]:
        """Keep these layers and blobs, there or to come, while an image is brought in; those that no image uses at the end go.

        Holds nest: take one for the manifest and the config, then one for what they name.
        """
        names = {layer_name(diff_id) for diff_id in diff_ids} | set(blobs)
        with self._lock:
            self._held.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(names)
                self._drop_unused(names)

    def keeps_blobs(self, *, is_local: bool) -> bool:
        """Whether the layer blobs of an image stay after they were converted; *is_local* as in Image."""
        return self._keep_blobs is KeepBlobs.ALL or (self._keep_blobs is KeepBlobs.LOCAL and is_local)

    def has_layer(self, diff_id: str) -> int | None:
        """Give the size of the sealed layer of *diff_id*, None when it is not here."""
        try:
            return os.stat(layer_name(diff_id), dir_fd=self.layers_fd).st_size
        except FileNotFoundError:
            return None

    def find_layer(self, diff_id: str) -> Layer | None:
        """The sealed layer of *diff_id* that an image here uses, whole as far as its size tells; None when it has to be made."""
        for image in self._all():
            for layer in image.layers:
                if layer.diff_id == diff_id and self.has_layer(diff_id) == layer.size_bytes:
                    return layer
        return None

    def add(self, image: Image) -> None:
        """Make *image* visible under its reference; its layers are sealed, its manifest and config are blobs here, all held by the caller."""
        with self._lock:
            self._add(image)

    def tag(self, source: str, new: str) -> Image:
        """Give the image that *source* names the reference *new* as well. Raises ImageNotFound, InvalidReference."""
        wanted = str(references.parse(new))
        with self._lock:
            image = self.find(source)
            if image is None:
                raise _not_found(source)
            image = dataclasses.replace(image, reference=wanted)
            self._add(image)
        return image

    def remove(self, text: str) -> tuple[str, ...]:
        """Forget the image, and delete the layers and blobs that no other uses; returns the layers' file names. Raises ImageNotFound."""
        with self._lock:
            image = self.find(text) or _find(self._broken, text)
            if image is None:
                raise _not_found(text)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._record_path(image.reference))
            self._images.pop(image.reference, None)
            self._broken.pop(image.reference, None)
            self.proofs.keep(each.digest for each in self._all())
            return self._drop_unused(self._kept(image))

    def note_verity(self, reason: str | None) -> None:
        """Say once, in the log, why layers here are held by their own digests alone."""
        if reason is not None and not self._has_told_verity:
            self._has_told_verity = True
            _LOG.info("layers are held by their own digests alone: %s", reason)

    def touch(self, names: Iterable[str]) -> None:
        """Note that these references are in use now."""
        for reference in names:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._record_path(reference))

    def used_at(self, reference: str) -> float:
        """When it was last in use, or came; seconds since 1970. Now, when it has no record."""
        try:
            return os.stat(self._record_path(reference)).st_mtime
        except FileNotFoundError:
            return time.time()

    def drop_layer(self, diff_id: str) -> tuple[Image, ...]:
        """Delete a layer that was found damaged; returns the images that are broken by it, which are not found until brought in again."""
        with self._lock:
            hit = tuple(image for image in self._images.values() if any(layer.diff_id == diff_id for layer in image.layers))
            self._unlink([layer_name(diff_id)])
            for image in hit:
                self._broken[image.reference] = self._images.pop(image.reference)
        return hit

    def _add(self, image: Image) -> None:
        path = self._record_path(image.reference)
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            file.write(record.render(image))
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".tmp", path)
        sync_directory(self._images_dir)
        before = self._images.get(image.reference) or self._broken.get(image.reference)
        self._images[image.reference] = image
        self._broken.pop(image.reference, None)
        self._mend()
        if before is not None:
            self._drop_unused(self._kept(before))

    def _all(self) -> tuple[Image, ...]:
        return (*tuple(self._images.values()), *tuple(self._broken.values()))

    def _mend(self) -> None:
        """What lacked a layer that has come back is whole again."""
        for image in tuple(self._broken.values()):
            if self._is_whole(image):
                self._images[image.reference] = self._broken.pop(image.reference)

    def _is_whole(self, image: Image) -> bool:
        if any(self.has_layer(layer.diff_id) != layer.size_bytes for layer in image.layers):
            return False
        return self.blobs.size(image.digest) == image.manifest_bytes and self.blobs.size(image.config_blob.digest) == image.config_blob.size_bytes

    def _drop_unused(self, names: Iterable[str]) -> tuple[str, ...]:
        """Delete those of *names*, layer files and blob digests, that are neither used nor held; returns the layers that went."""
        used = {name for image in self._all() for name in self._kept(image)}
        gone = tuple(name for name in names if name not in used and self._held[name] <= 0)
        for name in gone:
            if record.is_digest(name):
                self.blobs.remove(name)
            self._held.pop(name, None)
        layers = tuple(name for name in gone if record.is_layer_name(name))
        self._unlink(layers)
        return layers

    def _unlink(self, names: Iterable[str]) -> None:
        """Delete layers. The kernel frees a large file when it is closed for the last time, which nobody has to wait for."""
        fds = []
        for name in names:
            self.verified.discard(name)
            with contextlib.suppress(FileNotFoundError):
                fds.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.layers_fd))
                os.unlink(name, dir_fd=self.layers_fd)
        if fds:
            threading.Thread(target=_close_all, args=(fds,), name="free", daemon=True).start()

    def _kept(self, image: Image) -> tuple[str, ...]:
        """What the image keeps here: its layers' files, and the digests of its blobs."""
        layers = [layer.blob.digest for layer in image.layers] if self.keeps_blobs(is_local=image.is_local) else []
        return (*(layer.path for layer in image.layers), image.digest, image.config_blob.digest, *layers)

    def _record_path(self, reference: str) -> str:
        return os.path.join(self._images_dir, hashlib.sha256(reference.encode()).hexdigest() + ".json")

    def _sweep(self) -> None:
        for directory in (self.layers_dir, self._images_dir):
            for name in os.listdir(directory):
                if name.startswith(".") or name.endswith(".tmp"):
                    os.unlink(os.path.join(directory, name))

    def _load(self) -> None:
        """Read the records; one that is damaged is as if it were not there, one that lacks a layer is broken: bringing it in again mends both."""
        for name in os.listdir(self._images_dir):
            with (
                open(os.path.join(self._images_dir, name), encoding="utf-8") as file,
                contextlib.suppress(*record.UNREADABLE),
            ):
                image = record.parse(file.read())
                kept = self._images if self._is_whole(image) else self._broken
                kept[image.reference] = image


def _find(images: dict[str, Image], text: str) -> Image | None:
    found = images.get(text)
    if found is not None:
        return found
    try:
        wanted = references.parse(text)
    except InvalidReference:
        return None
    found = images.get(str(wanted))
    if found is None and wanted.digest is not None:
        found = next((image for image in tuple(images.values()) if image.digest == wanted.digest), None)
    return found


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _not_found(text: str) -> ImageNotFound:
    return ImageNotFound(f"no image {text!r} here; `skerry image ls` shows those there are")
