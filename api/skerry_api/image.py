"""The SandboxImage resource as values, parsed from JSON and rendered to it. Pure.

One writer per field: people write `spec`; the operator `status` but for layers; the agent of `status.nodeName` `layers` and `layersDigest`. What
agents have of it they say in `status.prepared` of their own SandboxNode (node.PreparedImage).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skerry_api import conditions, fields, names
from skerry_api.conditions import Condition
from skerry_api.errors import InvalidManifest
from skerry_api.fields import Raw

BUILT_DOMAIN = "localhost"
"""Where images that are built for an object lie: `localhost/NAMESPACE/TAG`, so that none takes the place of another's, or of a registry's."""
_REFERENCE = re.compile(r"[a-zA-Z0-9][-._/:@a-zA-Z0-9\[\]]{0,511}")
_TAG = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?::[a-zA-Z0-9_][-.\w]{0,127})?", re.ASCII)
_MAX_DOCKERFILE, _MAX_FILES = 262_144, 256


@dataclass(frozen=True, slots=True)
class Build:
    """How an image is built. The context is a ConfigMap's files, or those in *inline* (path and text); none has no file."""

    tag: str
    dockerfile: str
    config_map: str | None = None
    inline: tuple[tuple[str, str], ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    target: str | None = None


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """What the agents' part of the system reads back of the status."""

    node_name: str | None = None
    digest: str | None = None
    layers_digest: str | None = None
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxImage:
    """The whole object: either *reference*, which the nodes that *prepull* selects hold, or *build*, which one node does. None selects no node."""

    namespace: str
    name: str
    uid: str
    generation: int
    reference: str | None = None
    build: Build | None = None
    prepull: tuple[tuple[str, str], ...] | None = None
    pull_secrets: tuple[str, ...] = ()
    status: ImageStatus = ImageStatus()
    resource_version: str = ""
    is_deleted: bool = False

    @property
    def image(self) -> str:
        """What a sandbox writes to use it."""
        if self.build is not None:
            return f"{BUILT_DOMAIN}/{self.namespace}/{self.build.tag}"
        return self.reference or ""


def is_selected(selector: tuple[tuple[str, str], ...] | None, labels: Mapping[str, str]) -> bool:
    """Whether a node with *labels* is meant; an empty selector means every node, None no node."""
    return selector is not None and all(labels.get(key) == value for key, value in selector)


def parse_image(raw: Raw) -> SandboxImage:
    """The SandboxImage that *raw* describes. Raises InvalidManifest for the first field that is wrong."""
    metadata, spec = fields.section(raw, "metadata", ""), fields.section(raw, "spec", "")
    fields.refuse_unknown(spec, "spec", frozenset({"reference", "build", "prepull", "imagePullSecrets"}))
    reference = fields.text(spec, "reference", "spec", limit=512)
    build = _parse_build(fields.section(spec, "build", "spec")) if spec.get("build") is not None else None
    if (reference is None) == (build is None):
        raise InvalidManifest("spec", "write either reference or build")
    if reference is not None and _REFERENCE.fullmatch(reference) is None:
        raise InvalidManifest("spec.reference", "write an image reference, for example docker.io/library/busybox:latest")
    prepull = fields.section(spec, "prepull", "spec") if spec.get("prepull") is not None else None
    return SandboxImage(
        namespace=str(metadata.get("namespace", "default")), name=str(metadata.get("name", "")), uid=str(metadata.get("uid", "")),
        generation=int(metadata.get("generation") or 1), reference=reference, build=build,
        prepull=fields.pairs(prepull, "nodeSelector", "spec.prepull") if prepull is not None else None,
        pull_secrets=_parse_secrets(spec), status=_parse_status(fields.section(raw, "status", "")),
        resource_version=str(metadata.get("resourceVersion", "")), is_deleted=metadata.get("deletionTimestamp") is not None,
    )  # fmt: skip


def _parse_build(raw: Raw) -> Build:
    fields.refuse_unknown(raw, "spec.build", frozenset({"tag", "dockerfile", "context", "args", "target"}))
    tag = fields.text(raw, "tag", "spec.build", limit=200)
    if tag is None or _TAG.fullmatch(tag) is None:
        raise InvalidManifest("spec.build.tag", "write NAME or NAME:TAG without a registry, for example app:1; it becomes localhost/NAMESPACE/app:1")
    dockerfile = fields.text(raw, "dockerfile", "spec.build", limit=_MAX_DOCKERFILE)
    if not dockerfile:
        raise InvalidManifest("spec.build.dockerfile", "write the text of a Dockerfile")
    context = fields.section(raw, "context", "spec.build")
    fields.refuse_unknown(context, "spec.build.context", frozenset({"configMap", "inline"}))
    config_map = fields.section(context, "configMap", "spec.build.context") if context.get("configMap") is not None else None
    inline = fields.pairs(context, "inline", "spec.build.context")
    if config_map is not None and inline:
        raise InvalidManifest("spec.build.context", "write either configMap or inline")
    if len(inline) > _MAX_FILES:
        raise InvalidManifest("spec.build.context.inline", f"write at most {_MAX_FILES} files")
    name = fields.text(config_map, "name", "spec.build.context.configMap", limit=253) if config_map is not None else None
    if config_map is not None and (name is None or not names.is_dns_subdomain(name)):
        raise InvalidManifest("spec.build.context.configMap.name", "write the name of a ConfigMap")
    return Build(
        tag=tag, dockerfile=dockerfile, config_map=name, inline=inline, arguments=fields.pairs(raw, "args", "spec.build"),
        target=fields.text(raw, "target", "spec.build", limit=128),
    )  # fmt: skip


def _parse_secrets(spec: Raw) -> tuple[str, ...]:
    entries = spec.get("imagePullSecrets") or []
    found = tuple(entry.get("name") for entry in entries if isinstance(entry, Mapping)) if isinstance(entries, list) else (None,)
    if len(found) > 16 or not all(isinstance(name, str) and names.is_dns_subdomain(name) for name in found):
        raise InvalidManifest("spec.imagePullSecrets", "write a list of at most 16 {name: SECRET}")
    return tuple(str(name) for name in found)


def _parse_status(raw: Mapping[str, Any]) -> ImageStatus:
    return ImageStatus(
        node_name=raw.get("nodeName"), digest=raw.get("digest"), layers_digest=raw.get("layersDigest"),
        conditions=tuple(conditions.parse_condition(each) for each in raw.get("conditions") or ()),
    )  # fmt: skip
