"""Bring images in from an OCI layout or a docker-archive. Every digest and size is proved; nothing is visible before.

Source: OCI image-spec, image-layout.md, image-index.md, manifest.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from skerry_node.image import conversion, descriptors, dockerarchive, layouts
from skerry_node.image import reference as references
from skerry_node.image.config import ImageConfig, parse_config
from skerry_node.image.errors import InvalidLayout, InvalidReference
from skerry_node.image.record import Blob, Image, Layer
from skerry_node.image.store import Store

_MAX_LAYERS, _MAX_DEPTH, _MAX_IMAGES = 500, 4, 100
_PIECE_BYTES = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def import_layout(store: Store, source: str, *, reference: str | None = None) -> Image:
    """Import the image at *source* (a layout in a directory or a tar, or a docker-archive), under *reference* or the name that it carries.

    Raises InvalidLayout, DamagedContent, InvalidLayer, InvalidImageConfig, InvalidReference, OSError; nothing of it is visible then.
    """
    with _open(source) as files:
        return import_files(store, files, reference=reference, what=source)


def import_all(store: Store, source: str) -> tuple[Image, ...]:
    """Import every image at *source* under the name that it carries, one after the other. Raises as `import_layout` does."""
    with _open(source) as files:
        found = descriptors.list_of(_read_index(files), "manifests")
        names = list(dict.fromkeys(name for each in found if _fits(each) and (name := _annotation({"manifests": []}, each)) is not None))
        if len(names) <= 1:
            return (import_files(store, files, what=source),)
        if len(names) > _MAX_IMAGES:
            raise InvalidLayout(f"{source} has {len(names)} images; {_MAX_IMAGES} at once are enough")
        return tuple(import_files(store, files, reference=name, what=source) for name in names)


def import_files(store: Store, files: layouts.Files, *, reference: str | None = None, what: str = "the layout") -> Image:
    """Import from the files of a layout; *what* names it in errors. A layer that is sealed here already may lack its blob. Raises as above."""
    index = _read_index(files)
    descriptor = _choose(files, index, reference=reference, depth=0)
    named = reference or _annotation(index, descriptor)
    if named is None:
        raise InvalidLayout(f"{what} does not say what its image is called; give a reference, for example busybox:latest")
    wanted = str(references.parse(named))
    digest = descriptors.digest_of(descriptor)
    raw_manifest = files.read_blob(descriptor)
    manifest = descriptors.parse_json(raw_manifest, digest)
    if descriptor.get("mediaType") not in descriptors.MANIFESTS or "manifests" in manifest:
        raise InvalidLayout(f"{digest} is no image manifest")
    if manifest.get("mediaType", descriptor["mediaType"]) != descriptor["mediaType"]:
        raise InvalidLayout(f"{digest} is not of the media type that its descriptor says")  # CVE-2021-41190
    raw_config = files.read_blob(descriptors.object_of(manifest, "config"))
    config = parse_config(descriptors.parse_json(raw_config, "the image config"))
    blobs = _layer_blobs(manifest, config)
    config_blob = _blob(descriptors.object_of(manifest, "config"))
    with store.hold(config.diff_ids, blobs=[digest, config_blob.digest, *(blob.digest for blob in blobs)]):
        layers = tuple(_bring(store, files, blob, diff_id) for blob, diff_id in zip(blobs, config.diff_ids, strict=True))
        store.blobs.put(raw_manifest)
        store.blobs.put(raw_config)
        image = Image(
            reference=wanted, digest=digest, media_type=str(descriptor["mediaType"]), manifest_bytes=len(raw_manifest),
            config_blob=config_blob, config=config, layers=layers, is_local=True,
        )  # fmt: skip
        store.add(image)
    return image


@contextlib.contextmanager
def _open(source: str) -> Iterator[layouts.Files]:
    """The layout at *source*; a docker-archive is seen as one. Newer ones are both, and are taken for layouts: those keep their digests."""
    with layouts.opened(source) as files:
        if isinstance(files, layouts.Tar) and not files.has_file("index.json") and files.has_file(dockerarchive.MANIFEST_FILE):
            yield dockerarchive.DockerArchive(files)
        else:
            yield files


def _read_index(files: layouts.Files) -> Mapping[str, Any]:
    return descriptors.parse_json(files.read_file("index.json"), "index.json")


def _choose(files: layouts.Files, index: Mapping[str, Any], *, reference: str | None, depth: int) -> Mapping[str, Any]:
    """The manifest for this machine: by platform where an index says one, nested indexes included."""
    found = [each for each in descriptors.list_of(index, "manifests") if _fits(each)]
    if not found or depth > _MAX_DEPTH:
        raise InvalidLayout(f"the layout has no image for {_platform()}")
    chosen = found[0] if depth or len({each.get("digest") for each in found}) == 1 else _named(found, reference)
    if chosen.get("mediaType") not in descriptors.INDEXES:
        return chosen
    nested_index = descriptors.parse_json(files.read_blob(chosen), descriptors.digest_of(chosen))
    nested = _choose(files, nested_index, reference=None, depth=depth + 1)
    return {**nested, "annotations": {**descriptors.annotations_of(nested), **descriptors.annotations_of(chosen)}}


def _named(found: list[Mapping[str, Any]], reference: str | None) -> Mapping[str, Any]:
    """Pick the one that *reference* names, of several."""
    for each in found:
        name = _annotation({"manifests": []}, each)
        with contextlib.suppress(InvalidReference):
            if name is not None and reference is not None and references.parse(name) == references.parse(reference):
                return each
    raise InvalidLayout(f"the layout has {len(found)} images; give the reference of one of them")


def _fits(descriptor: Mapping[str, Any]) -> bool:
    wanted = descriptor.get("platform")
    if not isinstance(wanted, Mapping):
        return True
    return f"{wanted.get('os')}/{wanted.get('architecture')}" == _platform()


def _platform() -> str:
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def _layer_blobs(manifest: Mapping[str, Any], config: ImageConfig) -> tuple[Blob, ...]:
    found = descriptors.list_of(manifest, "layers")
    if len(found) != len(config.diff_ids) or len(found) > _MAX_LAYERS:
        raise InvalidLayout(f"the manifest has {len(found)} layers, the config {len(config.diff_ids)}")
    return tuple(_blob(descriptor) for descriptor in found)


def _bring(store: Store, files: layouts.Files, blob: Blob, diff_id: str) -> Layer:
    """Have the sealed layer, and its blob where the store keeps those of images that come from here."""
    found, name = store.find_layer(diff_id), descriptors.blob_name(blob.digest)
    is_wanted = store.keeps_blobs(is_local=True) and (found is None or files.has_file(name))
    if is_wanted and store.blobs.size(blob.digest) != blob.size_bytes:
        with files.open_file(name) as source, store.blobs.add(blob.digest, blob.size_bytes) as writer:
            while piece := source.read(_PIECE_BYTES):
                writer.write(piece)
            writer.commit()
    if found is not None:
        return dataclasses.replace(found, blob=blob)
    promise = conversion.Promise(digest=blob.digest, size_bytes=blob.size_bytes, diff_id=diff_id, media_type=blob.media_type)
    with files.open_file(name) as source:
        return conversion.convert(store, promise, source)


def _annotation(index: Mapping[str, Any], descriptor: Mapping[str, Any]) -> str | None:
    candidates = [descriptor, *descriptors.list_of(index, "manifests")]
    for key in (descriptors.CONTAINERD_NAME, descriptors.NAME):
        for each in candidates:
            value = descriptors.annotations_of(each).get(key)
            if isinstance(value, str):
                return value
    return None


def _blob(descriptor: Mapping[str, Any]) -> Blob:
    return Blob(
        digest=descriptors.digest_of(descriptor), size_bytes=descriptors.size_of(descriptor), media_type=descriptors.media_type_of(descriptor)
    )
