"""Doors: kopf's events go in here, raw, and nothing comes back. kopf writes nothing: no annotations, no finalizers, no events, no peering."""

from __future__ import annotations

from typing import Any

import kopf

from skerry_api import names
from skerry_operator.access import Access
from skerry_operator.controller import Controller
from skerry_operator.imagecontroller import ImageController


def make_registry(controller: Controller, images: ImageController, access: Access) -> kopf.OperatorRegistry:
    """Who is called when."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        scheme, _separator, token = (await access.headers()).get("Authorization", "").partition(" ")
        return kopf.ConnectionInfo(
            server=access.server, ca_path=access.ca_path, insecure=access.is_insecure, scheme=scheme or None, token=token or None,
            certificate_path=access.certificate_path, private_key_path=access.key_path,
        )  # fmt: skip

    @kopf.on.event(names.GROUP, names.VERSION, names.SANDBOX_PLURAL, registry=registry)
    async def sandbox(event: kopf.RawEvent, **_: Any) -> None:
        await controller.take_sandbox(event["object"], is_deleted=event["type"] == "DELETED")

    @kopf.on.event(names.GROUP, names.VERSION, names.NODE_PLURAL, registry=registry)
    async def node(event: kopf.RawEvent, **_: Any) -> None:
        controller.take_node(event["object"], is_deleted=event["type"] == "DELETED")
        images.nodes_changed()

    @kopf.on.event(names.GROUP, names.VERSION, names.IMAGE_PLURAL, registry=registry)
    async def image(event: kopf.RawEvent, **_: Any) -> None:
        images.take(event["object"], is_deleted=event["type"] == "DELETED")

    return registry


def make_settings() -> kopf.OperatorSettings:
    """Of kopf, the watching only."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 1.0  # a worker per object lives on in memory for so long
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 5)
    return settings
