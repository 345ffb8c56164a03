"""From a reference to the manifest and config for this machine, each proved and fit for it."""

from __future__ import annotations

from dataclasses import dataclass

from skerry_node.image.config import ImageConfig, parse_config
from skerry_node.image.reference import Reference
from skerry_node.image.registry import manifests
from skerry_node.image.registry.errors import PlatformMissing, RegistryLied, quote
from skerry_node.image.registry.manifests import Manifest
from skerry_node.image.registry.repository import Fetched, Repository


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference stands for in its registry: the manifest for this machine."""

    fetched: Fetched
    manifest: Manifest


async def find(repository: Repository, reference: Reference) -> Found:
    """Fetch the manifest for this machine, through an index when there is one."""
    fetched = await repository.fetch_manifest(reference.digest or reference.tag or "latest")
    parsed = manifests.parse(fetched.content, media_type=fetched.media_type)
    if isinstance(parsed, Manifest):
        return Found(fetched, parsed)
    chosen = manifests.choose(parsed, manifests.this_platform())
    fetched = await repository.fetch_manifest(chosen.digest)
    if len(fetched.content) != chosen.size_bytes or fetched.media_type != chosen.media_type:
        raise RegistryLied(f"the index promises {chosen.digest} as {chosen.media_type} of {chosen.size_bytes} bytes; the registry sends another")
    inner = manifests.parse(fetched.content, media_type=fetched.media_type)
    if not isinstance(inner, Manifest):
        raise RegistryLied("the index leads to another index")
    return Found(fetched, inner)


def read_config(content: bytes, manifest: Manifest) -> ImageConfig:
    """Parse the config, which must be one for this machine, with a diff id for each layer."""
    raw = manifests.parse_object(content, "the image config")
    here = manifests.this_platform()
    made_for = (raw.get("os") or here.os, raw.get("architecture") or here.architecture)
    if made_for != (here.os, here.architecture):
        raise PlatformMissing(f"the image is made for {quote('/'.join(map(str, made_for)))}, this machine is {here}")
    config = parse_config(raw)
    if len(config.diff_ids) != len(manifest.layers):
        raise RegistryLied(f"the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}")
    return config
