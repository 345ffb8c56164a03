"""A pull over the agent's door: a line of JSON for each look at how far it is, the last one with the image or the refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from skerry_node.image.registry.credentials import MAX_CONFIG_BYTES
from skerry_node.serving.backend import Backend, Image, Refused


async def respond(request: web.Request, backend: Backend, body: Mapping[str, Any]) -> web.StreamResponse:
    """Pull what *body* asks for: {"reference", "dockerConfig": the text of a Docker config, optional}. A reader that goes away ends it.

    Lines: {"progress": {...}}; then {"image": {...}} or {"error": {"reason", "message", "field"}}.
    """
    reference, config = body.get("reference"), body.get("dockerConfig")
    if not isinstance(reference, str) or not reference:
        raise Refused("name the image to pull, for example docker.io/library/busybox:latest", field="reference")
    if config is not None and (not isinstance(config, str) or len(config) > MAX_CONFIG_BYTES):
        raise Refused("must be the text of a Docker config", field="dockerConfig")
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    pieces = backend.pull_image(reference, docker_config=config.encode() if config is not None else None)
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(_line(piece))
    except Refused as error:
        if not response.prepared:
            raise
        await response.write(json.dumps({"error": {"reason": error.reason, "message": error.message, "field": error.field}}).encode() + b"\n")
    await response.write_eof()
    return response


def _line(piece: Mapping[str, Any] | Image) -> bytes:
    if isinstance(piece, Image):
        fields = {
            "reference": piece.reference, "digest": piece.digest, "sizeBytes": piece.size_bytes, "layers": piece.layers, "created": piece.created,
        }  # fmt: skip
        return json.dumps({"image": fields}).encode() + b"\n"
    return json.dumps({"progress": piece}).encode() + b"\n"
