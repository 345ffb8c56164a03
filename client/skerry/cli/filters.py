"""`ps --filter`: docker's words about sandboxes. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skerry_api.sandbox import Sandbox

KEYS = ("name", "label", "status", "image", "node")


class BadFilterError(ValueError):
    """A filter that cannot be meant."""


def parse(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of KEY=VALUE. Raises BadFilterError."""
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS or not value:
            raise BadFilterError(f"{text}: write KEY=VALUE with a key of {', '.join(KEYS)}")
        found.append((key, value))
    return tuple(found)


def matches(sandbox: Sandbox, filters: Sequence[tuple[str, str]]) -> bool:
    """Whether *sandbox* passes: for each key one of its values, for labels all of them."""
    labels = dict(sandbox.metadata.labels)
    for key in {key for key, _ in filters}:
        values = [value for each, value in filters if each == key]
        if key == "label":
            if not all(_has_label(labels, value) for value in values):
                return False
        elif not any(fnmatch.fnmatchcase(_field(sandbox, key), value.lower() if key == "status" else value) for value in values):
            return False
    return True


def _has_label(labels: dict[str, str], text: str) -> bool:
    name, equals, value = text.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _field(sandbox: Sandbox, key: str) -> str:
    match key:
        case "name":
            return sandbox.metadata.name
        case "status":
            return str(sandbox.status.phase or "Pending").lower()
        case "image":
            return sandbox.spec.image
        case _:
            return sandbox.spec.node_name or ""
