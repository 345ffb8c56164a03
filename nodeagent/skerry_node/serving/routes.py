"""Paths, methods and answers of the agent's HTTP interface. JSON both ways; errors are {reason, message, field}."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from skerry_api import sandbox as api
from skerry_api import waiting
from skerry_api.errors import InvalidManifest
from skerry_node.serving import building, images, logs, pulls, stream_routes
from skerry_node.serving.backend import Backend, Image, Refused
from skerry_node.standalone import errors as standalone_errors

MAX_REQUEST_BYTES = 1 << 20
_SANDBOXES = "/v1/sandboxes"
_WAIT_POLL_SECONDS = 0.02
"""A look at a value in memory; short beside the time in which a sandbox starts."""
_SETTLE_SECONDS, _SETTLE_POLL_SECONDS = 2.0, 0.001

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_application(
    backend: Backend,
    *,
    metrics: Callable[[], bytes] | None,
    carrier: images.Carrier | None = None,
    builder: building.Builder | None = None,
) -> web.Application:
    """Every route over *backend*, and those over *carrier* and *builder* when there are such."""
    routes = _Routes(backend, metrics=metrics)
    application = web.Application(middlewares=[errors_as_json, routes.await_list], client_max_size=MAX_REQUEST_BYTES)
    one = f"{_SANDBOXES}/{{namespace}}/{{name}}"
    application.add_routes(
        [
            web.get("/v1/version", routes.version),
            web.get("/v1/info", routes.info),
            web.get(_SANDBOXES, routes.list_sandboxes),
            web.post(_SANDBOXES, routes.create),
            web.get(one, routes.read),
            web.patch(one, routes.patch),
            web.delete(one, routes.delete),
            web.get(f"{one}/inspect", routes.inspect),
            web.get(f"{one}/wait", routes.wait),
            *make_stream_routes(backend),
            web.get("/v1/images", routes.list_images),
            web.post("/v1/images", routes.import_image),
            web.post("/v1/images/pull", routes.pull_image),
            web.delete("/v1/images", routes.remove_image),
            web.get("/metrics", routes.metrics),
        ]
    )
    if carrier is not None:
        images.add_routes(application, carrier, routes.find)
    if builder is not None:
        building.add_routes(application, builder)
    return application


_STANDALONE_ANSWERS: Mapping[type[standalone_errors.StandaloneError], tuple[int, str]] = {
    standalone_errors.NotFound: (404, "NotFound"),
    standalone_errors.AlreadyExists: (409, "AlreadyExists"),
    standalone_errors.Unavailable: (503, "Unavailable"),
}


def make_stream_routes(backend: Backend) -> list[web.RouteDef]:
    """The routes that the gateway's door serves too: what a person has in hand of one running sandbox."""
    routes = _Routes(backend, metrics=None)
    one = f"{_SANDBOXES}/{{namespace}}/{{name}}"
    hands = stream_routes.StreamRoutes(backend, routes.find).routes(one)
    return [web.get(f"{one}/logs", routes.logs), web.get(f"{one}/stats", routes.stats), *hands]


@web.middleware
async def errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal as {reason, message, field}."""
    try:
        return await handler(request)
    except Refused as error:
        return _refusal(error)
    except InvalidManifest as error:
        return _refusal(Refused(error.problem, field=error.field))
    except standalone_errors.StandaloneError as error:
        status, reason = _STANDALONE_ANSWERS.get(type(error), (500, "InternalError"))
        return _refusal(Refused(str(error), status=status, reason=reason))
    except web.HTTPException as error:
        return _refusal(Refused(error.text or error.reason, status=error.status, reason=error.reason.replace(" ", "")))


class _Routes:
    """One method per route."""

    def __init__(self, backend: Backend, *, metrics: Callable[[], bytes] | None) -> None:
        self._backend = backend
        self._metrics = metrics

    @web.middleware
    async def await_list(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """No sandbox is called missing before the agent knows which there are."""
        if request.path.startswith(_SANDBOXES):
            await self._backend.await_list()
        return await handler(request)

    async def version(self, _: web.Request) -> web.Response:
        info = self._backend.info()
        return web.json_response({"version": info.version, "apiVersion": "v1"})

    async def info(self, _: web.Request) -> web.Response:
        info = self._backend.info()
        mode = "standalone" if info.is_standalone else "cluster"
        return web.json_response({"version": info.version, "nodeName": info.node_name, "mode": mode, "details": info.details})

    async def list_sandboxes(self, request: web.Request) -> web.Response:
        namespace = request.query.get("namespace")
        items = [s for s in self._backend.list() if namespace in {None, s.metadata.namespace}]
        return web.json_response({"items": [api.render_sandbox(sandbox) for sandbox in items]})

    async def create(self, request: web.Request) -> web.Response:
        self._check_is_standalone("kubectl apply -f FILE")
        sandbox = await self._backend.create(await _body(request))
        await self._settle(sandbox)
        return web.json_response(api.render_sandbox(sandbox), status=201)

    async def read(self, request: web.Request) -> web.Response:
        return web.json_response(api.render_sandbox(self.find(request)))

    async def patch(self, request: web.Request) -> web.Response:
        """Body: {"desiredState": Running | Stopped, "terminationGracePeriodSeconds": optional}."""
        sandbox = self.find(request)
        name = sandbox.metadata.name
        self._check_is_standalone(f'kubectl patch sandbox {name} --type=merge -p \'{{"spec":{{"desiredState":"Stopped"}}}}\'')
        body = await _body(request)
        try:
            state = api.DesiredState(str(body.get("desiredState")))
        except ValueError:
            words = " or ".join(api.DesiredState)
            raise Refused(f"must be {words}", field="desiredState") from None
        grace = body.get("terminationGracePeriodSeconds")
        if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool) or not 0 <= grace <= 86_400):
            raise Refused("must be a number of seconds from 0 to 86400", field="terminationGracePeriodSeconds")
        changed = await self._backend.set_desired_state(sandbox, state=state, grace_seconds=grace)
        await self._settle(changed)
        return web.json_response(api.render_sandbox(changed))

    async def delete(self, request: web.Request) -> web.Response:
        sandbox = self.find(request)
        self._check_is_standalone(f"kubectl delete sandbox {sandbox.metadata.name}")
        await self._backend.delete(sandbox)
        return web.json_response({"uid": sandbox.metadata.uid}, status=202)

    async def inspect(self, request: web.Request) -> web.Response:
        sandbox = self.find(request)
        node = await self._backend.inspect(sandbox)
        return web.json_response({**api.render_sandbox(sandbox), "node": node})

    async def wait(self, request: web.Request) -> web.Response:
        """Query: for=Ready | Finished | Deleted, timeout in seconds. A wait for Ready ends when it finished instead."""
        wanted = request.query.get("for", "Finished")
        if wanted not in {"Ready", "Finished", "Deleted"}:
            raise Refused("must be Ready, Finished or Deleted", field="for")
        timeout_seconds = _number(request.query, "timeout", default=float("inf"))
        uid = self.find(request).metadata.uid
        end = time.monotonic() + timeout_seconds
        while True:
            found = self._backend.find(request.match_info["namespace"], request.match_info["name"])
            if found is None or found.metadata.uid != uid:
                if wanted == "Deleted":
                    return web.json_response({})
                raise Refused("the sandbox was deleted", status=410, reason="Gone")
            is_done = waiting.is_finished(found) or (wanted == "Ready" and waiting.is_ready(found))
            if wanted != "Deleted" and is_done:
                return web.json_response(api.render_sandbox(found))
            if time.monotonic() >= end:
                raise Refused(f"not {wanted} after {timeout_seconds:g} s", status=408, reason="Timeout")
            await asyncio.sleep(_WAIT_POLL_SECONDS)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        sandbox = self.find(request)
        options = logs.parse_options(request.query)
        return await logs.respond(
            request,
            options=options,
            directory=self._backend.log_directory(sandbox),
            has_ended=lambda: self._has_ended(sandbox),
        )

    async def stats(self, request: web.Request) -> web.Response:
        sandbox = self.find(request)
        metadata = sandbox.metadata
        usage = self._backend.stats(sandbox)
        if usage is None:
            raise Refused(f"sandbox {metadata.name} does not run", status=409, reason="NotRunning")
        return web.json_response({"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid, **usage})

    async def list_images(self, _: web.Request) -> web.Response:
        return web.json_response({"items": [_image(image) for image in self._backend.images()]})

    async def import_image(self, request: web.Request) -> web.Response:
        """Body: {"path": on this machine, "reference": optional}."""
        body = await _body(request)
        path, reference = body.get("path"), body.get("reference")
        if not isinstance(path, str) or not path.startswith("/"):
            raise Refused("must be an absolute path on this machine", field="path")
        if reference is not None and not isinstance(reference, str):
            raise Refused("must be text, as NAME:TAG", field="reference")
        found = [_image(image) for image in await self._backend.import_image(path, reference=reference)]
        return web.json_response({**found[0], "items": found}, status=201)

    async def pull_image(self, request: web.Request) -> web.StreamResponse:
        """Body and answer: see `pulls.respond`."""
        return await pulls.respond(request, self._backend, await _body(request))

    async def remove_image(self, request: web.Request) -> web.Response:
        """Query: reference."""
        if not (reference := request.query.get("reference")):
            raise Refused("name the image to remove", field="reference")
        await self._backend.remove_image(reference)
        return web.json_response({})

    async def metrics(self, _: web.Request) -> web.Response:
        if self._metrics is None:
            raise Refused("this agent serves no metrics here", status=404, reason="NotFound")
        # Prometheus text format 0.0.4
        return web.Response(body=await asyncio.to_thread(self._metrics), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def find(self, request: web.Request) -> api.Sandbox:
        """The sandbox that the path names. Raises Refused."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        if (sandbox := self._backend.find(namespace, name)) is None:
            raise Refused(f"no sandbox {name} in namespace {namespace} on this node", status=404, reason="NotFound")
        return sandbox

    async def _settle(self, sandbox: api.Sandbox) -> None:
        """Let the agent take note of a change first, so that the next request of this client finds it."""
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end:
            found = self._backend.find(sandbox.metadata.namespace, sandbox.metadata.name)
            if found is not None and (found.metadata.uid != sandbox.metadata.uid or found.metadata.generation >= sandbox.metadata.generation):
                return
            await asyncio.sleep(_SETTLE_POLL_SECONDS)

    def _has_ended(self, sandbox: api.Sandbox) -> bool:
        found = self._backend.find(sandbox.metadata.namespace, sandbox.metadata.name)
        return found is None or found.metadata.uid != sandbox.metadata.uid or waiting.is_finished(found)

    def _check_is_standalone(self, command: str) -> None:
        if not self._backend.info().is_standalone:
            message = f"this node is part of a cluster: change sandboxes through the API server, {command}"
            raise Refused(message, status=405, reason="MethodNotAllowed")


async def _body(request: web.Request) -> Mapping[str, Any]:
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}", status=400, reason="BadRequest") from error
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object", status=400, reason="BadRequest")
    return body


def _number(query: Mapping[str, str], name: str, *, default: float) -> float:
    try:
        value = float(query.get(name, default))
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise Refused("must be a number, 0 or more", field=name)
    return value


def _image(image: Image) -> dict[str, Any]:
    fields = dataclasses.asdict(image)
    fields["sizeBytes"] = fields.pop("size_bytes")
    return fields


def _refusal(error: Refused) -> web.Response:
    body = {"reason": error.reason, "message": error.message, "field": error.field}
    return web.json_response(body, status=error.status)
