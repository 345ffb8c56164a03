"""Paths of the aggregated API: health and discovery for anybody, streams for whom the API server vouches.

Each subresource is also served below `proxy/`: kube-apiserver ends a request after a minute, but for subresources whose names say that they last,
and of ours those are exec, attach, portforward and proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from skerry_api import names, streaming
from skerry_operator import errors
from skerry_operator.gateway import discovery, identity, proxying, rights, ticketing, webproxy
from skerry_operator.gateway.audit import Entry
from skerry_operator.gateway.errors import Denied, Unserved

if TYPE_CHECKING:
    from skerry_operator.gateway.service import Service

MAX_QUERY_PAIRS = 1024
"""Of which the words of a command are most."""
_BASE = "/apis/stream.skerry.dev/v1alpha1/namespaces"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_application(service: Service) -> web.Application:
    """Every route over *service*."""
    streams = _Streams(service)
    application = web.Application(middlewares=[_errors_as_status], client_max_size=1)  # bodies are passed on, never read here
    one = f"{_BASE}/{{namespace}}/sandboxes/{{name}}"
    application.add_routes([
        web.get("/healthz", _healthy), web.get("/readyz", _healthy), web.get("/livez", _healthy),
        web.get("/apis", _constant(discovery.GROUPS)), web.get("/apis/stream.skerry.dev", _constant(discovery.GROUP)),
        web.get("/apis/stream.skerry.dev/v1alpha1", _constant(discovery.RESOURCES)),
        web.route("*", f"{one}/{{subresource}}", streams.serve),
        web.route("*", f"{one}/proxy/{{port:[0-9]+}}", _with_slash), web.route("*", f"{one}/proxy/{{port:[0-9]+}}/{{rest:.*}}", streams.serve),
        web.route("*", f"{one}/proxy/{{subresource}}", streams.serve),
    ])  # fmt: skip
    return application


class _Streams:
    """One request for a stream, from who asks to the last byte."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Audited whatever happens. A connection on which something was refused is not used again."""
        part, meters = request.match_info, self._service.meters
        subresource = "proxy" if "port" in part else part["subresource"]
        entry = Entry(part["namespace"][:256], part["name"][:256], subresource[:64], request.method, _source(request))
        try:
            call = await self._admit(request, entry)
        except Denied as error:
            outcome = "refused" if error.status in {401, 403} else "failed"
            entry.write(outcome, reason=error.message)
            meters.answered(entry.subresource, outcome)
            raise
        except errors.RequestFailed as error:
            entry.write("failed", reason=str(error))
            meters.answered(entry.subresource, "failed")
            raise Unserved("the API server does not answer the gateway: try again", status=503, reason="ServiceUnavailable") from error
        entry.write("allowed")
        meters.answered(entry.subresource, "allowed")
        self._open += 1
        try:
            with meters.stream(entry.subresource):
                return await self._stream(request, call, entry)
        except Denied as error:
            entry.write("refused" if error.status in {401, 403} else "failed", reason=error.message)
            raise
        finally:
            self._open -= 1

    async def _admit(self, request: web.Request, entry: Entry) -> proxying.Call:
        """A call to the right agent with its ticket. Raises Denied, errors.RequestFailed. Nothing is told of what the caller may not see."""
        service = self._service
        certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
        user = identity.identify(service.config, certificate, request.headers.items())
        entry.user, entry.groups = user.name, user.groups
        namespace, name, subresource = _checked(request)
        entry.verb = streaming.VERBS[subresource]
        query = (("port", str(webproxy.parse_port(part["port"]))),) if "port" in (part := request.match_info) else tuple(request.query.items())
        entry.command = (f"port {part['port']}",) if "port" in part else tuple(value for key, value in query if key == "command")
        if len(query) > MAX_QUERY_PAIRS:
            raise Unserved(f"more than {MAX_QUERY_PAIRS} parameters", status=414, reason="RequestURITooLong")
        finding = asyncio.ensure_future(service.targets.find(namespace, name))
        try:
            await rights.require(service.client, user, namespace=namespace, name=name, subresource=subresource)
            if self._open >= service.settings.max_streams:
                raise Unserved("too many streams: close some, or start another gateway", status=429, reason="TooManyRequests")
            place = await finding
        finally:
            finding.cancel()
            await asyncio.gather(finding, return_exceptions=True)
        entry.uid, entry.node = place.uid, place.node
        ticket = ticketing.issue(
            service.trust.signing, node=place.node, uid=place.uid, subresource=subresource, query=query, user=user.name
        )  # fmt: skip
        door = await service.targets.find_door(place.node)
        path = f"/v1/sandboxes/{namespace}/{name}/{subresource}"
        return proxying.Call(door=door, node=place.node, path=path, query=query, ticket=ticket, tls=service.agent_context)

    async def _stream(self, request: web.Request, call: proxying.Call, entry: Entry) -> web.StreamResponse:
        part, is_socket = request.match_info, request.headers.get("Upgrade", "").lower() == "websocket"
        if is_socket and "port" not in part and request.headers.get("Origin") == "null":
            raise Unserved("a page without an origin of its own may open no streams", status=403, reason="Forbidden")  # one of webproxy's, perhaps
        way = proxying.forward_socket if is_socket else proxying.forward
        try:
            if "port" in part:
                prefix = f"{_BASE}/{part['namespace']}/sandboxes/{part['name']}/proxy/{part['port']}"
                return await webproxy.serve(self._service.session, request, call, port=webproxy.parse_port(part["port"]), prefix=prefix)
            return await way(self._service.session, request, call)
        except proxying.Unreachable:
            self._service.targets.forget_door(entry.node)
            raise


def _checked(request: web.Request) -> tuple[str, str, str]:
    """Namespace, name and subresource, each of the right form; a port is reached by the right to forward ports. Raises Unserved."""
    part = request.match_info
    namespace, name, subresource = part["namespace"], part["name"], "portforward" if "port" in part else part["subresource"]
    if subresource not in streaming.VERBS or not names.is_dns_label(namespace) or not names.is_dns_subdomain(name):
        raise Unserved("the server could not find the requested resource", status=404, reason="NotFound")
    return namespace, name, subresource


@web.middleware
async def _errors_as_status(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refusals as the API's Status objects; behind one the connection closes, so that nothing sent after it is taken for a request."""
    try:
        return await handler(request)
    except Denied as error:
        return _status(error.status, error.reason, error.message)
    except web.HTTPException as error:
        return _status(error.status, error.reason.replace(" ", ""), error.text or error.reason)


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}
    response = web.json_response(body, status=code)
    response.force_close()
    return response


async def _with_slash(request: web.Request) -> web.StreamResponse:
    """Links of a page are relative to the directory in which a browser believes to be."""
    query = request.rel_url.raw_query_string
    return webproxy.lead(f"{request.match_info['port']}/{'?' if query else ''}{query}")


def _constant(value: Any) -> _Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(value)

    return answer


async def _healthy(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


def _source(request: web.Request) -> str:
    """The caller's address as the API server saw it, else the API server's own."""
    return (request.headers.get("X-Forwarded-For") or request.remote or "")[:256]
