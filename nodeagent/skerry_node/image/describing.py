"""What people ask of an image: how it is made up, and how it came about. Its config is a stranger's text: it is shown, never followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skerry_node.image import descriptors
from skerry_node.image.record import Image, Layer
from skerry_node.image.store import Store

_MAX_HISTORY = 2000
_MAX_TEXT = 4096


def inspect(store: Store, image: Image, *, others: Sequence[Image]) -> dict[str, Any]:
    """Everything that is known of *image*; *others* may share layers with it. Raises BlobNotFound, DamagedContent, InvalidLayout."""
    raw = _read_config(store, image)
    shared = {layer.diff_id for other in others if other.digest != image.digest for layer in other.layers}
    instructions = iter([entry["instruction"] for entry in _history(raw) if not entry["isEmpty"]])
    return {
        "reference": image.reference,
        "references": list(store.references(image.digest)),
        "digest": image.digest,
        "mediaType": image.media_type,
        "created": _text(raw, "created"),
        "author": _text(raw, "author"),
        "platform": "/".join(part for part in (_text(raw, "os"), _text(raw, "architecture"), _text(raw, "variant")) if part),
        "sizeBytes": image.size_bytes,
        "isLocal": image.is_local,
        "config": {"digest": image.config_blob.digest, **_object(raw, "config")},
        "layers": [_describe_layer(store, layer, is_shared=layer.diff_id in shared, instruction=next(instructions, "")) for layer in image.layers],
    }


def history(store: Store, image: Image) -> list[dict[str, Any]]:
    """How the image came about, first step first: created, instruction, comment, isEmpty, and the layer's sizeBytes and diffId where it made one."""
    layers = iter(image.layers)
    return [_with_layer(entry, None if entry["isEmpty"] else next(layers, None)) for entry in _history(_read_config(store, image))]


def created(store: Store, image: Image) -> str:
    """When it was made, as its config says; empty when it does not."""
    return _text(_read_config(store, image), "created")


def layer_instructions(store: Store, image: Image) -> tuple[str, ...]:
    """What made each layer, lowest first; empty where the config does not say."""
    known = [entry["instruction"] for entry in _history(_read_config(store, image)) if not entry["isEmpty"]]
    return tuple([*known, *([""] * len(image.layers))][: len(image.layers)])


def _read_config(store: Store, image: Image) -> Mapping[str, Any]:
    return descriptors.parse_json(store.blobs.read(image.config_blob.digest), "the image config")


def _describe_layer(store: Store, layer: Layer, *, is_shared: bool, instruction: str) -> dict[str, Any]:
    return {
        "digest": layer.blob.digest, "mediaType": layer.blob.media_type, "packedBytes": layer.blob.size_bytes, "diffId": layer.diff_id,
        "sizeBytes": layer.size_bytes, "file": layer.path, "seal": layer.seal, "isShared": is_shared,
        "isBlobKept": store.blobs.has(layer.blob.digest), "instruction": instruction,
    }  # fmt: skip


def _with_layer(entry: dict[str, Any], layer: Layer | None) -> dict[str, Any]:
    return {**entry, "sizeBytes": layer.size_bytes if layer is not None else 0, "diffId": layer.diff_id if layer is not None else ""}


def _history(raw: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    entries = raw.get("history")
    for entry in entries[:_MAX_HISTORY] if isinstance(entries, list) else ():
        if isinstance(entry, Mapping):
            yield {
                "created": _text(entry, "created"), "instruction": _text(entry, "created_by"), "comment": _text(entry, "comment"),
                "isEmpty": entry.get("empty_layer") is True,
            }  # fmt: skip


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, Mapping) else {}
