"""Images over HTTP: what is in the store, carried away, named, made from a sandbox. What is asked for is done by a Carrier, not here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from skerry_api.sandbox import Sandbox
from skerry_node.image.registry.credentials import MAX_CONFIG_BYTES
from skerry_node.serving import lines, outflow
from skerry_node.serving.backend import Refused

_MAX_REFERENCES = 100
_FORMATS = {"docker-archive": True, "oci-archive": False}

Make = Callable[[outflow.Outflow], None]


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What is asked for: the image's name, instructions for its config (`CMD ["sh"]`, `ENV A=b`), and words for its history."""

    reference: str
    changes: tuple[str, ...] = ()
    message: str = ""
    author: str = ""


class Carrier(Protocol):
    """What the routes need of the agent. Raises Refused."""

    async def inspect_image(self, reference: str) -> Mapping[str, Any]:
        """Everything that is known of an image; plain data."""
        ...

    async def image_history(self, reference: str) -> Sequence[Mapping[str, Any]]:
        """How an image came about, first step first; plain data."""
        ...

    async def tag_image(self, source: str, target: str) -> Mapping[str, Any]:
        """A second name for an image: reference and digest."""
        ...

    async def prune_images(self, *, is_dry: bool) -> Mapping[str, Any]:
        """Remove what no sandbox uses, or say what that is: references and freedBytes."""
        ...

    async def save_images(self, references: Sequence[str], *, for_docker: bool, send: Callable[[Make], Any]) -> Any:
        """Hand *send* what writes the archive, with everything at hand that it needs for as long as it sends."""
        ...

    def push_image(self, reference: str, target: str, *, docker_config: bytes | None) -> AsyncGenerator[Mapping[str, Any], None]:
        """Push an image: {"progress": ...} again and again, at last {"image": {"reference", "digest"}}. Leaving the loop ends it."""
        ...

    async def export_sandbox(self, sandbox: Sandbox, *, send: Callable[[Make], Any]) -> Any:
        """As `save_images`, of a sandbox's root filesystem."""
        ...

    async def commit_sandbox(self, sandbox: Sandbox, request: CommitRequest) -> Mapping[str, Any]:
        """An image of a sandbox's writable layer on its image; plain data."""
        ...


def add_routes(application: web.Application, carrier: Carrier, find: Callable[[web.Request], Sandbox]) -> None:
    """Put the routes over *carrier* into *application*; *find* gives the sandbox that a request names."""
    routes = _Routes(carrier, find)
    application.add_routes(
        [
            web.get("/v1/images/inspect", routes.inspect),
            web.get("/v1/images/history", routes.history),
            web.post("/v1/images/tag", routes.tag),
            web.post("/v1/images/prune", routes.prune),
            web.get("/v1/images/archive", routes.save),
            web.post("/v1/images/push", routes.push),
            web.get("/v1/sandboxes/{namespace}/{name}/export", routes.export),
            web.post("/v1/sandboxes/{namespace}/{name}/commit", routes.commit),
        ]
    )


class _Routes:
    """One method per route."""

    def __init__(self, carrier: Carrier, find: Callable[[web.Request], Sandbox]) -> None:
        self._carrier = carrier
        self._find = find

    async def inspect(self, request: web.Request) -> web.Response:
        """Query: reference."""
        return web.json_response(await self._carrier.inspect_image(_reference(request)))

    async def history(self, request: web.Request) -> web.Response:
        """Query: reference."""
        return web.json_response({"items": await self._carrier.image_history(_reference(request))})

    async def tag(self, request: web.Request) -> web.Response:
        """Body: {"source", "target"}."""
        body = await read_body(request)
        return web.json_response(await self._carrier.tag_image(text_of(body, "source"), text_of(body, "target")), status=201)

    async def prune(self, request: web.Request) -> web.Response:
        """Body: {"dryRun": optional}."""
        body = await read_body(request)
        return web.json_response(await self._carrier.prune_images(is_dry=body.get("dryRun") is True))

    async def save(self, request: web.Request) -> web.StreamResponse:
        """Query: reference, once or more; format=docker-archive | oci-archive. The answer is a tar."""
        references = request.query.getall("reference", [])
        if not 0 < len(references) <= _MAX_REFERENCES:
            raise Refused(f"name 1 to {_MAX_REFERENCES} images", field="reference")
        form = request.query.get("format", "docker-archive")
        if form not in _FORMATS:
            raise Refused(f"must be {' or '.join(_FORMATS)}", field="format")
        response = await self._carrier.save_images(references, for_docker=_FORMATS[form], send=lambda make: outflow.respond(request, make))
        assert isinstance(response, web.StreamResponse)
        return response

    async def push(self, request: web.Request) -> web.StreamResponse:
        """Body: {"reference", "target": optional, "dockerConfig": the text of a Docker config, optional}. Answer: lines, see `lines.respond`."""
        body = await read_body(request)
        reference, config = text_of(body, "reference"), body.get("dockerConfig")
        if config is not None and (not isinstance(config, str) or len(config) > MAX_CONFIG_BYTES):
            raise Refused("must be the text of a Docker config", field="dockerConfig")
        target = text_of(body, "target", default="") or reference
        return await lines.respond(request, self._carrier.push_image(reference, target, docker_config=config.encode() if config else None))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """The answer is a tar of the root filesystem."""
        response = await self._carrier.export_sandbox(self._find(request), send=lambda make: outflow.respond(request, make))
        assert isinstance(response, web.StreamResponse)
        return response

    async def commit(self, request: web.Request) -> web.Response:
        """Body: {"reference", "changes": optional lines of a Dockerfile, "message", "author": optional}."""
        body = await read_body(request)
        changes = body.get("changes") or []
        if not isinstance(changes, list) or not all(isinstance(each, str) for each in changes):
            raise Refused("must be a list of instructions", field="changes")
        asked = CommitRequest(
            reference=text_of(body, "reference"), changes=tuple(changes), message=text_of(body, "message", default=""),
            author=text_of(body, "author", default=""),
        )  # fmt: skip
        return web.json_response(await self._carrier.commit_sandbox(self._find(request), asked), status=201)


async def read_body(request: web.Request) -> Mapping[str, Any]:
    """The JSON object of a request. Raises Refused."""
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}", status=400, reason="BadRequest") from error
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object", status=400, reason="BadRequest")
    return body


def text_of(body: Mapping[str, Any], field: str, *, default: str | None = None) -> str:
    """A field of a body that is text. Raises Refused."""
    value = body.get(field, default)
    if not isinstance(value, str) or (not value and default is None):
        raise Refused("must be text", field=field)
    return value


def _reference(request: web.Request) -> str:
    reference = request.query.get("reference")
    if not reference:
        raise Refused("name an image", field="reference")
    return reference
