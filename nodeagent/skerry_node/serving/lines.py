"""An answer in lines of JSON, one for each thing that happens; a refusal in the middle is the last of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import web

from skerry_node.serving.backend import Refused


async def respond(request: web.Request, pieces: AsyncGenerator[Mapping[str, Any], None]) -> web.StreamResponse:
    """Send each of *pieces*; {"error": {"reason", "message", "field"}} when it is refused midway. A reader that goes away ends it."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    async with contextlib.aclosing(pieces):
        try:
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(json.dumps(piece).encode() + b"\n")
        except Refused as error:
            if not response.prepared:
                raise
            await response.write(json.dumps({"error": {"reason": error.reason, "message": error.message, "field": error.field}}).encode() + b"\n")
    await response.write_eof()
    return response
