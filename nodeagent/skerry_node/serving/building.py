"""A build over HTTP. The body: four bytes of length, a JSON object, then the context as a tar to its end. The answer: JSON lines as the build goes.

The last line is `done` or `failed`. A client that goes away ends its build.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import tempfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

from aiohttp import web

from skerry_node.build import archives, engine, progress, threads
from skerry_node.build.errors import BuildError, CommandFailed, InvalidContext
from skerry_node.image import reference as references
from skerry_node.image.errors import ImageError, InvalidReference
from skerry_node.image.record import Image
from skerry_node.serving.backend import Refused

_HEAD = struct.Struct(">I")
_MAX_HEAD_BYTES, _MAX_TAGS, _MAX_ARGUMENTS = 2 << 20, 16, 1000
_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Builder(Protocol):
    """What the route needs of the agent."""

    @property
    def directory(self) -> str:
        """Where a context is laid aside, as an anonymous file."""
        ...

    async def build(self, request: engine.Request, emit: progress.Emit) -> Image:
        """Build an image into the store. Raises BuildError, ImageError, OSError."""
        ...


def add_routes(application: web.Application, builder: Builder) -> None:
    """Put the route over *builder* into *application*."""

    async def build(request: web.Request) -> web.StreamResponse:
        return await respond(request, builder)

    application.add_routes([web.post("/v1/build", build)])


async def respond(request: web.Request, builder: Builder) -> web.StreamResponse:
    """Take the request in, build, say how it goes. Raises Refused before the first line is sent."""
    raw = await _read_head(request)
    with tempfile.TemporaryFile(dir=builder.directory) as file:
        try:
            await _spool(request, file)
            context = await threads.run(archives.Archive, file, what="the build context")
        except InvalidContext as error:
            raise Refused(str(error), reason=error.reason, field="context") from error
        except OSError as error:
            raise Refused(f"cannot lay the context aside: {error.strerror}", status=507, reason="NoSpace", field="context") from error
        order = parse_request(raw, context)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        await response.prepare(request)

        async def emit(event: progress.Event) -> None:
            await _send(response, progress.render(event))

        await _send(response, await _build(builder, order, emit))
        await response.write_eof()
        return response


async def _build(builder: Builder, order: engine.Request, emit: progress.Emit) -> Mapping[str, Any]:
    """The last line."""
    try:
        image = await builder.build(order, emit)
    except BuildError as error:
        code = error.exit_code if isinstance(error, CommandFailed) else None
        return {"event": "failed", "reason": error.reason, "message": str(error), "line": error.line, "hint": error.hint, "exitCode": code}
    except (ImageError, OSError) as error:
        return {"event": "failed", "reason": "BuildFailed", "message": str(error), "line": 0, "hint": "", "exitCode": None}
    described = {"reference": image.reference, "digest": image.digest, "sizeBytes": image.size_bytes, "layers": len(image.layers)}
    return {"event": "done", "image": described}


def parse_request(raw: Mapping[str, Any], context: archives.Archive) -> engine.Request:
    """From dockerfile, tags, target, buildArgs, noCache, network, sourceDateEpoch. Raises Refused naming the field."""
    known = {"dockerfile", "tags", "target", "buildArgs", "noCache", "network", "sourceDateEpoch"}
    if unknown := set(raw) - known:
        raise Refused(f"unknown; there are {', '.join(sorted(known))}", field=min(unknown))
    dockerfile = raw.get("dockerfile")
    if not isinstance(dockerfile, str):
        raise Refused("must be the text of a Dockerfile", field="dockerfile")
    arguments = raw.get("buildArgs") or {}
    is_fine = isinstance(arguments, dict) and len(arguments) <= _MAX_ARGUMENTS
    if not is_fine or not all(_NAME.fullmatch(key) and isinstance(value, str) and "\0" not in value for key, value in arguments.items()):
        raise Refused(f"must be at most {_MAX_ARGUMENTS} names with text", field="buildArgs")
    target = raw.get("target")
    if target is not None and not isinstance(target, str):
        raise Refused("must be the name of a stage", field="target")
    epoch = raw.get("sourceDateEpoch")
    if epoch is not None and (not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 1 << 33):
        raise Refused("must be unix seconds", field="sourceDateEpoch")
    return engine.Request(
        dockerfile=dockerfile.encode("utf-8", "surrogatepass"), context=context, references=_parse_tags(raw.get("tags") or []), target=target,
        arguments=arguments, use_cache=not _flag(raw, "noCache"), has_network=_flag(raw, "network"), source_date_epoch=epoch,
    )  # fmt: skip


def _parse_tags(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or len(raw) > _MAX_TAGS or not all(isinstance(each, str) for each in raw):
        raise Refused(f"must be at most {_MAX_TAGS} names", field="tags")
    tags = []
    for each in raw:
        try:
            found = references.parse(each)
        except InvalidReference as error:
            raise Refused(str(error), reason=error.reason, field="tags") from error
        if found.digest is not None:
            raise Refused(f"{each[:80]!r} has a digest, which only the result can have; write NAME:TAG", field="tags")
        tags.append(str(found))
    return tuple(tags)


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    if not isinstance(value, bool):
        raise Refused("must be true or false", field=name)
    return value


async def _read_head(request: web.Request) -> Mapping[str, Any]:
    try:
        (length,) = _HEAD.unpack(await request.content.readexactly(_HEAD.size))
        if length > _MAX_HEAD_BYTES:
            raise Refused(f"the request has more than {_MAX_HEAD_BYTES} bytes", status=413, reason="TooLarge")
        raw = json.loads(await request.content.readexactly(length))
    except (asyncio.IncompleteReadError, ValueError, RecursionError) as error:
        raise Refused("the body is no build request", status=400, reason="BadRequest") from error
    if not isinstance(raw, dict):
        raise Refused("the body is no build request", status=400, reason="BadRequest")
    return raw


async def _spool(request: web.Request, file: BinaryIO) -> None:
    """The context to *file*, which is anonymous; writing waits for the disk in a thread."""
    written, pieces = 0, bytearray()
    while True:
        piece = await request.content.readany()
        written += len(piece)
        if written > archives.MAX_BYTES:
            raise Refused(f"the context has more than {archives.MAX_BYTES} bytes; .dockerignore can leave things out", status=413, reason="TooLarge")
        pieces += piece
        if not piece or len(pieces) >= _CHUNK_BYTES:
            await threads.run(file.write, bytes(pieces))
            pieces.clear()
        if not piece:
            file.flush()
            return


async def _send(response: web.StreamResponse, line: Mapping[str, Any]) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        await response.write(json.dumps(line).encode() + b"\n")
