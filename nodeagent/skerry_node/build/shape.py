"""An image under construction: its layers, its config, its history. Pure.

Source: OCI image-spec, config.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from skerry_node.build import configs
from skerry_node.image.errors import InvalidImageConfig
from skerry_node.image.record import Image, Layer

_COMMENT = "skerry build"


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, lowest first; *history* as it stands in an image config; *is_changed* says that a layer came to the base's."""

    config: configs.Config
    layers: tuple[Layer, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    is_changed: bool = False
    has_triggers: bool = False
    """Whether the base wants instructions run in whatever is built on it (ONBUILD)."""

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """What the layers are."""
        return tuple(layer.diff_id for layer in self.layers)


def from_image(image: Image, raw_config: bytes) -> Shape:
    """What building on *image* begins with. Raises InvalidImageConfig."""
    try:
        raw = json.loads(raw_config)
    except (ValueError, RecursionError) as error:
        raise InvalidImageConfig("the image config is not JSON") from error
    config = configs.from_base(raw)
    history = raw.get("history") or []
    if not isinstance(history, list) or not all(isinstance(entry, Mapping) for entry in history):
        raise InvalidImageConfig("history of the image config must be a list of objects")
    layered = sum(not entry.get("empty_layer") for entry in history)
    known = tuple(history) if layered == len(image.layers) else tuple({"comment": "not told"} for _ in image.layers)
    has_triggers = bool((raw.get("config") or {}).get("OnBuild"))
    return Shape(config=config, layers=image.layers, history=known, has_triggers=has_triggers)


def add_step(shape: Shape, config: configs.Config, layer: Layer | None, *, text: str, now_ns: int) -> Shape:
    """*shape* after an instruction, which made *layer* or none."""
    entry: dict[str, Any] = {"created": render_time(now_ns), "created_by": text, "comment": _COMMENT}
    if layer is None:
        entry["empty_layer"] = True
    layers = shape.layers if layer is None else (*shape.layers, layer)
    return dataclasses.replace(shape, config=config, layers=layers, history=(*shape.history, entry), is_changed=shape.is_changed or layer is not None)


def render(shape: Shape, *, architecture: str, now_ns: int) -> dict[str, Any]:
    """The image config."""
    author = {"author": shape.config.author} if shape.config.author else {}
    return {
        "architecture": architecture,
        "os": "linux",
        "created": render_time(now_ns),
        **author,
        "config": configs.render(shape.config),
        "rootfs": {"type": "layers", "diff_ids": list(shape.diff_ids)},
        "history": [dict(entry) for entry in shape.history],
    }


def render_time(time_ns: int) -> str:
    """RFC 3339 in whole seconds."""
    return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
