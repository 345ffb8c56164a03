"""Bring images in from an OCI layout: a directory, or a tar of one. Every digest and size is proved; nothing is visible before.

Source: OCI image-spec, image-layout.md, image-index.md, manifest.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import platform
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from skerry_node.image import layer, tar
from skerry_node.image import reference as references
from skerry_node.image.config import ImageConfig, parse_config
from skerry_node.image.errors import DamagedContent, InvalidLayer, InvalidLayout, InvalidReference
from skerry_node.image.record import Blob, Image, Layer, layer_name
from skerry_node.image.store import Store

_MAX_JSON_BYTES = 4 << 20
"""OCI distribution-spec: registries hold manifests to 4 MiB."""
_MAX_LAYERS, _MAX_DEPTH, _MAX_MEDIA_TYPE = 500, 4, 255
_PIECE_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:([a-f0-9]{64})")
_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def import_layout(store: Store, source: str, *, reference: str | None = None) -> Image:
    """Import the image in the layout at *source* (directory or tar), under *reference* or the name that it carries.

    Raises InvalidLayout, DamagedContent, InvalidLayer, InvalidImageConfig, InvalidReference, OSError; nothing of it is visible then.
    """
    with _open(source) as blobs:
        index = _parse_json(blobs.read_file("index.json"), "index.json")
        descriptor = _choose(blobs, index, reference=reference, depth=0)
        named = reference or _annotation(index, descriptor)
        if named is None:
            raise InvalidLayout(f"{source} does not say what its image is called; give a reference, for example busybox:latest")
        wanted = str(references.parse(named))
        raw_manifest = blobs.read_blob(descriptor)
        manifest = _parse_json(raw_manifest, _digest(descriptor))
        if descriptor.get("mediaType") not in _MANIFESTS or "manifests" in manifest:
            raise InvalidLayout(f"{_digest(descriptor)} is no image manifest")
        if manifest.get("mediaType", descriptor["mediaType"]) != descriptor["mediaType"]:
            raise InvalidLayout(f"{_digest(descriptor)} is not of the media type that its descriptor says")  # CVE-2021-41190
        raw_config = blobs.read_blob(_object(manifest, "config"))
        config = parse_config(_parse_json(raw_config, "the image config"))
        descriptors = _layer_blobs(manifest, config)
        config_blob = _blob(_object(manifest, "config"))
        with store.hold(config.diff_ids, blobs=[_digest(descriptor), config_blob.digest, *(blob.digest for blob in descriptors)]):
            layers = tuple(_bring(store, blobs, blob, diff_id) for blob, diff_id in zip(descriptors, config.diff_ids, strict=True))
            store.blobs.put(raw_manifest)
            store.blobs.put(raw_config)
            image = Image(
                reference=wanted, digest=_digest(descriptor), media_type=str(descriptor["mediaType"]), manifest_bytes=len(raw_manifest),
                config_blob=config_blob, config=config, layers=layers, is_local=True,
            )  # fmt: skip
            store.add(image)
        return image


class _Blobs:
    """Where the layout's files are: found by name, content proved by digest."""

    def open_file(self, name: str) -> BinaryIO:
        """A file of the layout, at its start. Raises InvalidLayout."""
        raise NotImplementedError

    def read_file(self, name: str) -> bytes:
        """A small file, whole."""
        with self.open_file(name) as file:
            content = file.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise InvalidLayout(f"{name} is larger than {_MAX_JSON_BYTES} bytes")
        return content

    def read_blob(self, descriptor: Mapping[str, Any]) -> bytes:
        """A small blob, whole and proved. Raises DamagedContent."""
        digest = _digest(descriptor)
        content = self.read_file(_blob_name(digest))
        if len(content) != descriptor.get("size") or f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise DamagedContent(f"blob {digest} is damaged: its content does not match its digest and size")
        return content


class _Directory(_Blobs):
    def __init__(self, path: str) -> None:
        self._path = path

    def open_file(self, name: str) -> BinaryIO:
        try:
            fd = os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InvalidLayout(f"{self._path} has no {name}; give an OCI layout (skopeo copy ... oci:DIR)") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidLayout(f"{name} is no regular file")
        return os.fdopen(fd, "rb")


class _Tar(_Blobs):
    """A tar of a layout: members are found once, then read in place."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[str, tuple[int, int]] = {}
        try:
            for entry in tar.Reader(file):
                name = entry.path.decode("utf-8", "replace").removeprefix("./")
                if not entry.is_sparse:
                    self._members[name] = (file.tell(), entry.size)
        except InvalidLayer as error:
            raise InvalidLayout(f"not a tar of an OCI layout: {error}") from error

    def open_file(self, name: str) -> BinaryIO:
        if name not in self._members:
            raise InvalidLayout(f"the tar has no {name}; give a tar of an OCI layout (skopeo copy ... oci-archive:FILE)")
        offset, size = self._members[name]
        return io.BufferedReader(_Slice(self._file.fileno(), offset, size), 1 << 20)


class _Slice(io.RawIOBase):
    """Part of a file, by its own offset."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd, self._offset, self._left = fd, offset, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = os.pread(self._fd, min(len(buffer), self._left), self._offset)
        buffer[: len(piece)] = piece
        self._offset += len(piece)
        self._left -= len(piece)
        return len(piece)


@contextlib.contextmanager
def _open(source: str) -> Iterator[_Blobs]:
    if os.path.isdir(source):
        yield _Directory(source)
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError as error:
        raise InvalidLayout(f"no file or directory {source}") from error
    with file:
        yield _Tar(file)


def _choose(blobs: _Blobs, index: Mapping[str, Any], *, reference: str | None, depth: int) -> Mapping[str, Any]:
    """The manifest for this machine: by platform where an index says one, nested indexes included."""
    found = [each for each in _list(index, "manifests") if _fits(each)]
    if not found or depth > _MAX_DEPTH:
        raise InvalidLayout(f"the layout has no image for {_platform()}")
    chosen = found[0] if depth or len(found) == 1 else _named(found, reference)
    if chosen.get("mediaType") not in _INDEXES:
        return chosen
    nested = _choose(blobs, _parse_json(blobs.read_blob(chosen), _digest(chosen)), reference=None, depth=depth + 1)
    return {**nested, "annotations": {**_annotations(nested), **_annotations(chosen)}}


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
    descriptors = _list(manifest, "layers")
    if len(descriptors) != len(config.diff_ids) or len(descriptors) > _MAX_LAYERS:
        raise InvalidLayout(f"the manifest has {len(descriptors)} layers, the config {len(config.diff_ids)}")
    return tuple(_blob(descriptor) for descriptor in descriptors)


def _bring(store: Store, blobs: _Blobs, blob: Blob, diff_id: str) -> Layer:
    """Have the sealed layer, and its blob where the store keeps those of images that come from here."""
    if store.keeps_blobs(is_local=True) and store.blobs.size(blob.digest) != blob.size_bytes:
        with blobs.open_file(_blob_name(blob.digest)) as source, store.blobs.add(blob.digest, blob.size_bytes) as writer:
            while piece := source.read(_PIECE_BYTES):
                writer.write(piece)
            writer.commit()
    found = store.find_layer(diff_id)
    if found is not None:
        return dataclasses.replace(found, blob=blob)
    promise = layer.Promise(digest=blob.digest, size_bytes=blob.size_bytes, diff_id=diff_id, media_type=blob.media_type)
    with blobs.open_file(_blob_name(blob.digest)) as source:
        sealed = layer.convert(source, promise, directory_fd=store.layers_fd, name=layer_name(diff_id))
    return Layer(diff_id=diff_id, size_bytes=sealed.size_bytes, path=layer_name(diff_id), seal=sealed.seal, blob=blob)


def _annotation(index: Mapping[str, Any], descriptor: Mapping[str, Any]) -> str | None:
    candidates = [descriptor, *_list(index, "manifests")]
    for key in (_CONTAINERD_NAME, _NAME):
        for each in candidates:
            value = _annotations(each).get(key)
            if isinstance(value, str):
                return value
    return None


def _annotations(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    value = raw.get("annotations")
    return value if isinstance(value, Mapping) else {}


def _list(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = raw.get(key)
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise InvalidLayout(f"{key} must be a list of descriptors")
    return value


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if not isinstance(value, Mapping):
        raise InvalidLayout(f"{key} must be a descriptor")
    return value


def _digest(descriptor: Mapping[str, Any]) -> str:
    value = descriptor.get("digest")
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise InvalidLayout(f"{str(value)[:80]!r} is no sha256 digest")
    return value


def _blob(descriptor: Mapping[str, Any]) -> Blob:
    return Blob(digest=_digest(descriptor), size_bytes=_size(descriptor), media_type=str(descriptor.get("mediaType", ""))[:_MAX_MEDIA_TYPE])


def _size(descriptor: Mapping[str, Any]) -> int:
    value = descriptor.get("size")
    if not isinstance(value, int) or value < 0:
        raise InvalidLayout(f"the size of {_digest(descriptor)} is no number")
    return value


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _parse_json(content: bytes, what: str) -> Mapping[str, Any]:
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidLayout(f"{what} is not JSON") from error
    if not isinstance(raw, Mapping):
        raise InvalidLayout(f"{what} is no object")
    return raw
