"""Reading raw manifests field by field: each reader knows the field's path, its type, and what to say when it is wrong. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from skerry_api.errors import InvalidManifest

Raw = Mapping[str, Any]
T = TypeVar("T")
E = TypeVar("E", bound=enum.StrEnum)


def section(raw: Raw, key: str, path: str) -> Raw:
    """The object at *key*; empty when it is missing."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidManifest(f"{path}.{key}", "write an object here")
    return value


def refuse_unknown(raw: Raw, path: str, known: frozenset[str]) -> None:
    """Fields that do nothing are errors, not decoration."""
    for key in raw:
        if key not in known:
            raise InvalidManifest(f"{path}.{key}", f"no such field; those there are: {', '.join(sorted(known))}")


def text(raw: Raw, key: str, path: str, *, limit: int = 4096) -> str | None:
    """A string of at most *limit* characters without NUL, or None."""
    value = raw.get(key)
    if value is None:
        return None
    return checked_text(value, f"{path}.{key}", limit=limit)


def checked_text(value: object, field: str, *, limit: int) -> str:
    """*value* as a string of at most *limit* characters without NUL."""
    if not isinstance(value, str):
        raise InvalidManifest(field, "write a string; put it in quotes")
    if len(value) > limit or "\x00" in value:
        raise InvalidManifest(field, f"write at most {limit} characters, none of them NUL")
    return value


def texts(raw: Raw, key: str, path: str, *, count: int, limit: int) -> tuple[str, ...] | None:
    """A list of at most *count* strings, or None."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > count:
        raise InvalidManifest(f"{path}.{key}", f"write a list of at most {count} strings")
    return tuple(checked_text(item, f"{path}.{key}[{place}]", limit=limit) for place, item in enumerate(value))


def number(raw: Raw, key: str, path: str, *, low: int, high: int) -> int | None:
    """A whole number from *low* to *high*, or None."""
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidManifest(f"{path}.{key}", f"write a whole number from {low} to {high}")
    return value


def flag(raw: Raw, key: str, path: str) -> bool:
    """A boolean; False when it is missing."""
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise InvalidManifest(f"{path}.{key}", "write true or false")
    return value


def choice(raw: Raw, key: str, path: str, kind: type[E], default: E) -> E:
    """One of the words of *kind*."""
    value = raw.get(key)
    if value is None:
        return default
    try:
        return kind(value)
    except ValueError:
        raise InvalidManifest(f"{path}.{key}", f"write one of {', '.join(kind)}") from None


def quantity(raw: Raw, key: str, path: str, parse: Callable[[object], int]) -> int | None:
    """A quantity read by *parse*, or None."""
    value = raw.get(key)
    if value is None:
        return None
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidManifest(f"{path}.{key}", str(error)) from error


def pairs(raw: Raw, key: str, path: str) -> tuple[tuple[str, str], ...]:
    """A map of strings, sorted by key."""
    value = section(raw, key, path)
    for name, item in value.items():
        if not isinstance(item, str):
            raise InvalidManifest(f"{path}.{key}.{name}", "write a string; put it in quotes")
    return tuple(sorted(value.items()))
