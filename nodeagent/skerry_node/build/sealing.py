"""Layers and images into the store. A layer is packed into an anonymous file, proved and sealed as a pulled one is; a crash leaves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from isal import isal_zlib

from skerry_node.image import config as image_config
from skerry_node.image import conversion, tarwriting
from skerry_node.image.blobs import digest_of
from skerry_node.image.record import Blob, Image, Layer
from skerry_node.image.store import Store

_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST_TYPE, _CONFIG_TYPE = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"
_OCI_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": _LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
UNNAMED = "localhost/unnamed"
"""The repository of images that were given no name; the tag is the beginning of the digest."""
_LEVEL, _GZIP_WINDOW = 1, 31


class _Packer:
    """Where a tar is written: gzip into *file*, hashed on both sides. The same tar gives the same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._deflater = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._raw, self._packed = hashlib.sha256(), hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes, /) -> None:
        """Take a piece of the tar."""
        self._raw.update(data)
        self._put(self._deflater.compress(data))

    def finish(self) -> None:
        """End the stream."""
        self._put(self._deflater.flush())
        self._file.flush()

    @property
    def diff_id(self) -> str:
        """Digest of the tar."""
        return f"sha256:{self._raw.hexdigest()}"

    @property
    def digest(self) -> str:
        """Digest of the blob."""
        return f"sha256:{self._packed.hexdigest()}"

    def _put(self, packed: bytes) -> None:
        self._packed.update(packed)
        self._file.write(packed)
        self.size_bytes += len(packed)


def make_layer(store: Store, write: Callable[[tarwriting.Output], int], *, directory: str, held: contextlib.ExitStack) -> Layer | None:
    """A sealed layer of the tar that *write* writes, kept as long as *held*; None when it has no member. Blocks.

    *write* returns the number of members. Raises what it raises, errors of the image room, OSError; nothing is visible then.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        packer = _Packer(file)
        if write(packer) == 0:
            return None
        packer.finish()
        blob = Blob(digest=packer.digest, size_bytes=packer.size_bytes, media_type=_LAYER_TYPE)
        held.enter_context(store.hold([packer.diff_id], blobs=[blob.digest]))
        found = store.find_layer(packer.diff_id)
        if found is not None and store.blobs.size(found.blob.digest) is not None:
            return found
        promise = conversion.Promise(digest=blob.digest, size_bytes=blob.size_bytes, diff_id=packer.diff_id, media_type=blob.media_type)
        file.seek(0)
        made = conversion.convert(store, promise, file)
        if store.keeps_blobs(is_local=True):
            _keep_blob(store, blob, file)
        return made


def _keep_blob(store: Store, blob: Blob, file: BinaryIO) -> None:
    if store.blobs.size(blob.digest) == blob.size_bytes:
        return
    file.seek(0)
    with store.blobs.add(blob.digest, blob.size_bytes) as writer:
        shutil.copyfileobj(file, writer, 1 << 20)
        writer.commit()


def as_oci(found: Layer) -> Layer:
    """*found* with the media type that an OCI manifest gives it."""
    media_type = _OCI_TYPES.get(found.blob.media_type, found.blob.media_type)
    return dataclasses.replace(found, blob=dataclasses.replace(found.blob, media_type=media_type))


def make_image(store: Store, raw_config: Mapping[str, Any], layers: Sequence[Layer], *, references: Sequence[str]) -> Image:
    """The image of *raw_config* over *layers*, which the caller holds, visible under each of *references*; without one, under UNNAMED. Blocks."""
    config_bytes = _render(raw_config)
    config_blob = Blob(digest=digest_of(config_bytes), size_bytes=len(config_bytes), media_type=_CONFIG_TYPE)
    layers = tuple(as_oci(each) for each in layers)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _describe(config_blob),
        "layers": [_describe(each.blob) for each in layers],
    }
    manifest_bytes = _render(manifest)
    digest = digest_of(manifest_bytes)
    with store.hold([each.diff_id for each in layers], blobs=[digest, config_blob.digest, *(each.blob.digest for each in layers)]):
        store.blobs.put(config_bytes)
        store.blobs.put(manifest_bytes)
        images = [
            Image(
                reference=reference, digest=digest, media_type=_MANIFEST_TYPE, manifest_bytes=len(manifest_bytes), config_blob=config_blob,
                config=image_config.parse_config(raw_config), layers=layers, is_local=True,
            )
            for reference in references or [f"{UNNAMED}:{digest.removeprefix('sha256:')[:12]}"]
        ]  # fmt: skip
        for image in images:
            store.add(image)
    return images[0]


def _describe(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes}


def _render(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
