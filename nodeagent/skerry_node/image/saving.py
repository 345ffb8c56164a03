"""Images out of the store as one tar: an OCI layout and, in the same bytes, what `docker load` reads. The same images give the same tar.

The blobs are those that the images came with, so that digests stay. Source: OCI image-spec, image-layout.md; moby's image/tarexport.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from skerry_node.image import descriptors, dockerarchive, tar, tarwriting
from skerry_node.image import reference as references
from skerry_node.image.record import Blob, Image
from skerry_node.image.store import Store

_PIECE_BYTES = 1 << 20


def find_missing(store: Store, images: Sequence[Image]) -> tuple[tuple[Image, Blob], ...]:
    """Blobs that have to be fetched before the images can be carried away, each once."""
    found = {blob.digest: (image, blob) for image in images for blob in image.blobs if store.blobs.size(blob.digest) != blob.size_bytes}
    return tuple(found.values())


def write_archive(store: Store, images: Sequence[Image], out: tarwriting.Output, *, for_docker: bool = True) -> None:
    """Write *images* to *out*; all their blobs must be in the store, held by the caller. Blocks. Raises BlobNotFound, OSError."""
    writer = tarwriting.Writer(out)
    blobs = {blob.digest: blob for image in images for blob in image.blobs}
    for directory in (b"blobs/", b"blobs/sha256/"):
        writer.add(_entry(directory, mode=stat.S_IFDIR | 0o755))
    for digest in sorted(blobs):
        with store.blobs.open(digest) as file:
            size = blobs[digest].size_bytes
            writer.add(_entry(descriptors.blob_name(digest).encode(), size=size), tarwriting.Content(_read(file)))
    _add_file(writer, "index.json", descriptors.render_json(render_index(images)))
    if for_docker:
        _add_file(writer, dockerarchive.MANIFEST_FILE, descriptors.render_json(_docker_manifest(images)))
    _add_file(writer, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    writer.finish()


def render_index(images: Sequence[Image]) -> dict[str, Any]:
    """The layout's index: one entry for each image, with its whole reference and its tag as annotations, as docker and containerd have it."""
    return {"schemaVersion": 2, "mediaType": descriptors.INDEX, "manifests": [_index_entry(image) for image in images]}


def _index_entry(image: Image) -> dict[str, Any]:
    name = references.parse(image.reference)
    annotations = {descriptors.CONTAINERD_NAME: image.reference, descriptors.NAME: name.tag or "latest"}
    return {"mediaType": image.media_type, "digest": image.digest, "size": image.manifest_bytes, "annotations": annotations}


def _docker_manifest(images: Sequence[Image]) -> list[dict[str, Any]]:
    """What `docker load` reads: an entry for each image, with all its tags."""
    by_config: dict[str, dict[str, Any]] = {}
    for image in images:
        config = descriptors.blob_name(image.config_blob.digest)
        layers = [descriptors.blob_name(layer.blob.digest) for layer in image.layers]
        entry = by_config.setdefault(config, {"Config": config, "Layers": layers, "RepoTags": []})
        name = references.parse(image.reference)
        if name.tag is not None:
            entry["RepoTags"].append(f"{name.domain}/{name.path}:{name.tag}".removeprefix("docker.io/library/").removeprefix("docker.io/"))
    return list(by_config.values())


def _add_file(writer: tarwriting.Writer, name: str, content: bytes) -> None:
    writer.add(_entry(name.encode(), size=len(content)), tarwriting.Content([content]))


def _entry(path: bytes, *, mode: int = stat.S_IFREG | 0o644, size: int = 0) -> tar.Entry:
    return tar.Entry(path=path, mode=mode, uid=0, gid=0, mtime_ns=0, size=size)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
