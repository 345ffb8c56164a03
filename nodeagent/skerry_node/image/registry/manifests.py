"""Manifests and indexes, OCI's and Docker's schema 2, as values; which of an index is for this machine. Pure.

Source: OCI image-spec, manifest.md, image-index.md, descriptor.md; distribution's manifest-v2-2.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skerry_node.image.registry.errors import PlatformMissing, RegistryLied, quote

MAX_MANIFEST_BYTES = 4 << 20
"""distribution-spec: registries hold manifests to 4 MiB."""
MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS, MAX_LAYER_BYTES = 500, 64 << 30
MANIFEST, DOCKER_MANIFEST = "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"
INDEX, DOCKER_INDEX = "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = f"{MANIFEST}, {DOCKER_MANIFEST}, {INDEX}, {DOCKER_INDEX}"
_CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_VARIANTS = {"arm64": ("v8", ""), "arm": ("v7", "v6", "v5", ""), "amd64": ("", "v1")}
"""What runs on each, best first."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A promise of content."""

    digest: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A config and layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Platform:
    """What an entry of an index runs on."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of an index."""

    descriptor: Descriptor
    platform: Platform | None


def this_platform() -> Platform:
    """What images must be made for to run here."""
    machine = platform.machine()
    return Platform("linux", _ARCHITECTURES.get(machine, machine))


def parse(content: bytes, *, media_type: str) -> Manifest | tuple[Entry, ...]:
    """The manifest or the index in *content*, which was sent as *media_type*. Raises RegistryLied.

    What calls itself by another name, or both at once, is refused: CVE-2021-41190.
    """
    raw = parse_object(content, "the manifest")
    own = raw.get("mediaType", media_type)
    if own != media_type:
        raise RegistryLied(f"the manifest is sent as {quote(media_type)!r} and calls itself {quote(str(own))!r}")
    if media_type in {MANIFEST, DOCKER_MANIFEST} and "manifests" not in raw:
        return _parse_manifest(raw)
    if media_type in {INDEX, DOCKER_INDEX} and "layers" not in raw and "config" not in raw:
        return _parse_index(raw)
    known = media_type in {MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_INDEX}
    problem = "is manifest and index at once" if known else "is of a kind that is not known: push it anew as OCI, or Docker schema 2"
    raise RegistryLied(f"the manifest, sent as {quote(media_type)!r}, {problem}")


def choose(entries: Iterable[Entry], wanted: Platform) -> Descriptor:
    """The entry that *wanted* runs best. Raises PlatformMissing with what there is."""
    listed = [each for each in entries if each.platform is not None and each.platform.os != "unknown"]  # buildkit's attestations
    variants = _VARIANTS.get(wanted.architecture, ("",))
    fitting = [
        (variants.index(each.platform.variant), number, each.descriptor)
        for number, each in enumerate(listed)
        if each.platform is not None
        and (each.platform.os, each.platform.architecture) == (wanted.os, wanted.architecture)
        and each.platform.variant in variants
    ]
    if not fitting:
        there = quote(", ".join(dict.fromkeys(str(each.platform) for each in listed))) or "nothing"
        raise PlatformMissing(f"the image is not there for {wanted}, only for {there}")
    return min(fitting)[2]


def parse_object(content: bytes, what: str) -> Mapping[str, Any]:
    """A JSON object. Raises RegistryLied."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RegistryLied(f"{what} is not JSON") from error
    if not isinstance(raw, Mapping):
        raise RegistryLied(f"{what} is no object")
    return raw


def _parse_manifest(raw: Mapping[str, Any]) -> Manifest:
    layers = raw.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise RegistryLied(f"the manifest must have a list of at most {MAX_LAYERS} layers")
    config = _parse_descriptor(raw.get("config"), MAX_CONFIG_BYTES)
    if config.media_type not in _CONFIGS:
        raise RegistryLied(f"it is no image to run: its config is {quote(config.media_type)!r}")
    return Manifest(config=config, layers=tuple(_parse_descriptor(each, MAX_LAYER_BYTES) for each in layers))


def _parse_index(raw: Mapping[str, Any]) -> tuple[Entry, ...]:
    manifests = raw.get("manifests")
    if not isinstance(manifests, list) or not all(isinstance(each, Mapping) for each in manifests):
        raise RegistryLied("the index must have a list of manifests")
    return tuple(Entry(_parse_descriptor(each, MAX_MANIFEST_BYTES), _parse_platform(each.get("platform"))) for each in manifests)


def _parse_platform(raw: Any) -> Platform | None:
    if not isinstance(raw, Mapping):
        return None
    return Platform(str(raw.get("os") or ""), str(raw.get("architecture") or ""), str(raw.get("variant") or ""))


def _parse_descriptor(raw: Any, limit: int) -> Descriptor:
    if not isinstance(raw, Mapping):
        raise RegistryLied("the manifest has a descriptor that is no object")
    digest, size, media_type = raw.get("digest"), raw.get("size"), raw.get("mediaType")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise RegistryLied(f"the manifest names {quote(str(digest))!r}, which is no sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= limit:
        raise RegistryLied(f"the manifest gives {digest} a size that is none, or above {limit} bytes")
    if not isinstance(media_type, str):
        raise RegistryLied(f"the manifest gives {digest} no media type")
    if raw.get("urls"):
        raise RegistryLied(f"the manifest has {digest} fetched from elsewhere (urls); push the image with its layers")
    return Descriptor(digest=digest, size_bytes=size, media_type=media_type)
