"""The agent's door for the gateway: TLS on an address of the node, the gateway's certificate, and a ticket for every request.

Behind it stand the handlers of the local door; here it is decided only who comes in.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from skerry_api import sandbox as api
from skerry_api import streaming
from skerry_node.serving import routes
from skerry_node.serving.admission import Admission
from skerry_node.serving.backend import Backend, Refused

ONE = "/v1/sandboxes/{namespace}/{name}"
_LOG = logging.getLogger("skerry.audit")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_LONGEST = 512


def make_application(backend: Backend, admission: Admission, *, handlers: Sequence[web.RouteDef]) -> web.Application:
    """*handlers* behind tickets; each path is ONE and a subresource."""
    guard = _Guard(backend, admission)
    application = web.Application(middlewares=[guard.refuse_in_words, guard.check], client_max_size=routes.MAX_REQUEST_BYTES)
    application.add_routes(handlers)
    return application


@dataclasses.dataclass(frozen=True, slots=True)
class _Guard:
    """The middlewares: the gateway's certificate, the ticket; then refusals as JSON, in a header too, and the end of the connection."""

    backend: Backend
    admission: Admission

    @web.middleware
    async def check(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Through with a good ticket. One line of audit for each request, whatever becomes of it."""
        subresource = request.path.rpartition("/")[2]
        line: dict[str, Any] = {"method": request.method, "path": request.path, "source": request.remote or ""}
        try:
            _check_peer(request)
            await self.backend.await_list()
            sandbox = self._find(request)
            ticket = self.admission.admit(
                request.headers.get(streaming.TICKET_HEADER, ""), uid=sandbox.metadata.uid, subresource=subresource, query=request.query.items()
            )
        except streaming.BadTicket as error:
            _audit("refused", line, reason=str(error))
            raise Refused(f"ticket refused: {error}", status=403, reason="Forbidden") from error
        except Refused as error:
            _audit("refused", line, reason=error.message)
            raise
        _audit("allowed", {**line, "user": ticket.user, "verb": ticket.verb, "uid": ticket.uid})
        return await handler(request)

    @web.middleware
    async def refuse_in_words(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Behind a refusal nothing more is read on that connection."""
        response = await routes.errors_as_json(request, handler)
        if response.status >= 400 and isinstance(response, web.Response) and not response.prepared:
            response.headers[streaming.REFUSAL_HEADER] = (response.text or "")[:4000]
            response.force_close()
        return response

    def _find(self, request: web.Request) -> api.Sandbox:
        if request.match_info.http_exception is not None:
            raise Refused(f"this agent does not serve {request.method} {request.path}", status=404, reason="NotFound")
        namespace, name = request.match_info.get("namespace", ""), request.match_info.get("name", "")
        found = self.backend.find(namespace, name)
        if found is None:
            raise Refused(f"no sandbox {name} in namespace {namespace} on this node", status=404, reason="NotFound")
        return found


def _check_peer(request: web.Request) -> None:
    """Raises Refused unless the verified client certificate, which the TLS layer demands, is the gateway's."""
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    names = [value for part in (certificate or {}).get("subject", ()) for key, value in part if key == "commonName"]
    if names != [streaming.GATEWAY_NAME]:
        raise Refused("only the gateway may call here", status=401, reason="Unauthorized")


def _audit(outcome: str, line: dict[str, Any], *, reason: str = "") -> None:
    values = {"outcome": outcome, **line, "reason": reason}
    _LOG.info("audit %s", " ".join(f"{key}={json.dumps(str(value)[:_LONGEST])}" for key, value in values.items() if value))
