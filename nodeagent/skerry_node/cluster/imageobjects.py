"""SandboxImages of the API server: listed and watched by every agent, and what it has to say of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from skerry_api import names
from skerry_api.image import SandboxImage, parse_image
from skerry_api.node import PreparedImage, SandboxNode, parse_node
from skerry_node import errors
from skerry_node.cluster import registration
from skerry_node.cluster.client import Client
from skerry_node.cluster.errors import Refused

PATH = f"/apis/{names.GROUP}/{names.VERSION}/{names.IMAGE_PLURAL}"
_WRONG = (ValueError, KeyError, TypeError, AttributeError)
_WATCH_SECONDS, _SILENCE_SECONDS, _LIST_SECONDS = 60, 75.0, 30.0
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 15.0
_LOG = logging.getLogger("skerry.images")


class ImageObjects:
    """What the API server has of SandboxImages, and of this node's own word on them. Must be used inside one event loop."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._client = client
        self._node_path = f"{registration.PATH}/{node_name}"
        self.known: dict[str, SandboxImage] = {}

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Keep `known` up to date until the client is closed, through every fault of the way."""
        failures = 0
        while not self._client.is_closed:
            try:
                version = await self._list()
                on_change()
                failures = 0
                while True:
                    version = await self._watch(version, on_change)
            except (Refused, errors.SourceUnavailable) as error:
                _LOG.log(logging.WARNING if failures == 0 else logging.DEBUG, "images not watched problem=%s", error)
                await asyncio.sleep(min(_PAUSE_SECONDS * 2.0**failures, _MAX_PAUSE_SECONDS))
                failures = min(failures + 1, 10)

    async def read_node(self) -> SandboxNode | None:
        """The object of this node as people label it; None while it is not registered. Raises errors.SourceUnavailable."""
        try:
            return parse_node(await self._client.get(self._node_path))
        except Refused as error:
            if error.code == 404:
                return None
            raise
        except _WRONG as error:
            raise errors.SourceUnavailable(f"{self._node_path} cannot be read: {error}") from error

    async def read_config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The files of a ConfigMap; None when there is none. Raises errors.SourceUnavailable."""
        try:
            found = await self._client.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        except Refused as error:
            if error.code == 404:
                return None
            raise
        data = found.get("data") or {}
        return {str(key): str(value) for key, value in data.items()} if isinstance(data, Mapping) else {}

    async def write_layers(self, image: SandboxImage, digest: str, layers: Sequence[Mapping[str, Any]]) -> None:
        """Tell what the image is made of: this agent's part of the status. Vanished, or made anew meanwhile, is success."""
        path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{image.namespace}/{names.IMAGE_PLURAL}/{image.name}/status"
        patch: list[Mapping[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": image.uid},
            {"op": "test", "path": "/status/digest", "value": digest},
            {"op": "add", "path": "/status/layers", "value": list(layers)},
            {"op": "add", "path": "/status/layersDigest", "value": digest},
        ]
        try:
            await self._client.patch(path, patch)
        except Refused as error:
            if error.code not in {404, 409, 422}:
                raise

    async def _list(self) -> str:
        raw = await self._client.get(PATH, seconds=_LIST_SECONDS)
        items, version = raw.get("items"), (raw.get("metadata") or {}).get("resourceVersion")
        if raw.get("kind") != f"{names.IMAGE_KIND}List" or not isinstance(items, list) or not version:
            raise errors.SourceUnavailable(f"GET {PATH}: the answer is not a list of images")
        found = [image for item in items if (image := _parse(item)) is not None]
        self.known = {image.uid: image for image in found}
        return str(version)

    async def _watch(self, version: str, on_change: Callable[[], None]) -> str:
        """One connection's worth of changes; returns the version to go on from."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        async with aclosing(self._client.stream(PATH, query=query, silence_seconds=_SILENCE_SECONDS)) as stream:
            async for lines in stream:
                for line in lines:
                    version = self._take(line)
                on_change()
        await asyncio.sleep(0)
        return version

    def _take(self, line: bytes) -> str:
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                raise Refused(int(item.get("code") or 500), f"watch: {item.get('message')}")
            version = str(item["metadata"]["resourceVersion"])
            uid = str(item["metadata"].get("uid", ""))
        except _WRONG as error:
            raise errors.SourceUnavailable("the watch sent what is no event") from error
        if kind == "DELETED":
            self.known.pop(uid, None)
        elif kind != "BOOKMARK" and (image := _parse(item)) is not None:
            self.known[image.uid] = image
        return version


def find_prepared(node: SandboxNode | None) -> tuple[PreparedImage, ...]:
    """What this node's object says of images."""
    return (node.status.prepared or ()) if node is not None else ()


def _parse(item: Any) -> SandboxImage | None:
    try:
        return parse_image(item)
    except _WRONG as error:
        _LOG.warning("an image is not understood problem=%s", error)
        return None
