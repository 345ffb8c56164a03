"""Volumes: docker's `-v` as volumes and mounts of a manifest. Pure."""

from __future__ import annotations

import itertools
import os.path
import re
from collections.abc import Sequence
from typing import Any

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MODES = {"": False, "rw": False, "ro": True}
_HOW = "write it as /ON/THE/NODE:/INSIDE, NAME:/INSIDE or /INSIDE, each with :ro behind it if you like"


class BadVolumeError(ValueError):
    """It cannot be read; says what to write."""


def render(texts: Sequence[str], *, directory: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`volumes` and `volumeMounts` of the spec. Raises BadVolumeError.

    `/a:/b` is the node's /a, and `./a:/b` is below *directory*; `name:/b` an empty directory that every `name` of this command shares; `/b` one
    of its own. Empty directories live as long as the sandbox.
    """
    splits = [_split(text) for text in texts]
    taken = {source for source, _, _ in splits}
    volumes: dict[str, dict[str, Any]] = {}
    found = []
    for text, (source, target, is_read_only) in zip(texts, splits, strict=True):
        if source.startswith(("/", ".")):
            kind: dict[str, Any] = {"hostPath": {"path": os.path.normpath(os.path.join(directory, source))}}
            name = next((each for each, volume in volumes.items() if volume == {"name": each, **kind}), None) or _invent("host", taken)
        else:
            kind = {"emptyDir": {}}
            name = _check_name(source, text) if source else _invent("own", taken)
        volumes[name] = {"name": name, **kind}
        found.append({"name": name, "mountPath": target, **({"readOnly": True} if is_read_only else {})})
    return list(volumes.values()), found


def _invent(stem: str, taken: set[str]) -> str:
    """A name that is not in *taken*, and is then."""
    name = next(name for number in itertools.count(1) if (name := f"{stem}-{number}") not in taken)
    taken.add(name)
    return name


def _split(text: str) -> tuple[str, str, bool]:
    """Source, which may be empty, target, and whether it is read-only."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) > 1 and not parts[-1].startswith("/") else ""
    if mode not in _MODES:
        hint = (
            f"there are ro and rw, not {mode!r}" if len(parts) > 1 or parts[0].startswith("/") else f"the place inside, {mode!r}, must begin with /"
        )
        raise BadVolumeError(f"{text}: {hint}; {_HOW}")
    if len(parts) > 2 or not parts[-1].startswith("/"):
        raise BadVolumeError(f"{text}: {_HOW}")
    return (parts[0] if len(parts) == 2 else "", parts[-1], _MODES[mode])


def _check_name(source: str, text: str) -> str:
    """A volume's name in the manifest; docker's names know capitals, dots and underscores too."""
    if _NAME.fullmatch(source) is None:
        proposal = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:63] or "data"
        raise BadVolumeError(f"{text}: names of volumes are lower-case letters, digits and dashes: write {proposal}; {_HOW}")
    return source
