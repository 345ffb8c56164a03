"""`sandboxes/NAME/proxy/PORT/...`: an HTTP request or a WebSocket to a port on the sandbox's loopback, as services and pods have it.

What a sandbox serves is hostile, and a browser sees it under the name of the API server, or of `kubectl proxy`, which lends out its user's rights. So
each page is held in an origin of its own (Content-Security-Policy: sandbox), and neither cookies nor who calls pass either way.
"""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Iterable, Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from skerry_operator.gateway import proxying, tunnel
from skerry_operator.gateway.errors import Unserved

POLICY = "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads"
"""Without allow-same-origin: what the page sends elsewhere is of an opaque origin."""
LOCATION = "X-Skerry-Location"
"""For programs: where the page leads."""
_SAME_METHOD = frozenset({307, 308})
_CHUNK_BYTES = 1 << 16
_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""RFC 9110, section 7.6.1."""
_SECRET = frozenset({"authorization", "cookie", "set-cookie", "x-skerry-ticket"})
_WHO = ("x-remote-", "impersonate-", "sec-websocket-", "audit-id")
_FORBIDDEN_BACK = frozenset({
    "content-security-policy", "set-cookie", "set-cookie2", "strict-transport-security", "service-worker-allowed", "clear-site-data", "alt-svc",
    "public-key-pins", "access-control-allow-credentials",
})  # fmt: skip
"""What speaks for a whole host, which is not the sandbox's."""


def parse_port(text: str) -> int:
    """Raises Unserved."""
    port = int(text) if len(text) <= 5 else 0
    if not 1 <= port <= 65_535:
        raise Unserved("name a port from 1 to 65535, as in proxy/8080/", status=400, reason="BadRequest")
    return port


def request_headers(headers: Iterable[tuple[str, str]], *, port: int, prefix: str) -> CIMultiDict[str]:
    """What the program is told: nothing of who calls, but where it is served."""
    kept = CIMultiDict((name, value) for name, value in headers if _passes(name) and name.lower() not in {"host", "origin", "expect"})
    kept["Host"] = f"localhost:{port}"
    kept["X-Forwarded-Prefix"] = prefix
    return kept


def answer_headers(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """What the caller is told; the page gets an origin of its own."""
    kept = CIMultiDict((name, value) for name, value in headers.items() if _passes(name) and name.lower() not in _FORBIDDEN_BACK)
    kept["Content-Security-Policy"] = POLICY
    kept["X-Content-Type-Options"] = "nosniff"
    return kept


def lead(location: str) -> web.Response:
    """A page that leads on. kube-apiserver passes no redirect of an aggregated API to the caller (--aggregator-reject-forwarding-redirects)."""
    where = html.escape(location, quote=True)
    text = f'<!doctype html><meta http-equiv="refresh" content="0; url={where}"><a href="{where}">{where}</a>'
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", LOCATION: quote(location)}
    return web.Response(text=text, content_type="text/html", headers=headers)


def quote(location: str) -> str:
    """As a header can carry it."""
    return urllib.parse.quote(location, safe="/?&=:#%+,;@!$'()*~[]")[:4096]


def rewrite_location(location: str, *, port: int, prefix: str) -> str:
    """A redirect to the program itself, below *prefix*; what leads elsewhere is left as it is."""
    for own in (f"http://localhost:{port}", f"http://127.0.0.1:{port}", f"//localhost:{port}"):
        if location == own or location.startswith((f"{own}/", f"{own}?")):
            location = location.removeprefix(own) or "/"
            break
    return prefix + location if location.startswith("/") and not location.startswith("//") else location


async def serve(session: aiohttp.ClientSession, request: web.Request, call: proxying.Call, *, port: int, prefix: str) -> web.StreamResponse:
    """The program's answer. Raises Unserved when there is none."""
    raw = request.rel_url.raw_path.removeprefix(prefix) or "/"
    target = URL(f"http://localhost:{port}{raw}{'?' if request.rel_url.raw_query_string else ''}{request.rel_url.raw_query_string}", encoded=True)
    headers = request_headers(request.headers.items(), port=port, prefix=prefix)
    async with proxying.dial(session, call, protocols=("v5.channel.k8s.io",)) as agent, tunnel.session_over(agent) as client:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _serve_socket(client, request, target, headers)
        return await _serve_request(client, request, target, headers, port=port, prefix=prefix)


async def _serve_request(
    client: aiohttp.ClientSession, request: web.Request, target: URL, headers: CIMultiDict[str], *, port: int, prefix: str
) -> web.StreamResponse:
    body = request.content.iter_chunked(_CHUNK_BYTES) if request.body_exists else None
    try:
        answer = await client.request(
            request.method, target, data=body, headers=headers, allow_redirects=False, skip_auto_headers=("User-Agent", "Accept")
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _silent(port, error) from error
    async with answer:
        if 300 <= answer.status < 400 and "Location" in answer.headers:
            if answer.status in _SAME_METHOD and request.method not in {"GET", "HEAD"}:
                raise Unserved(
                    f"the program redirects {request.method} elsewhere, and the API server lets no redirect pass", status=502, reason="BadGateway"
                )
            return lead(rewrite_location(answer.headers["Location"], port=port, prefix=prefix))
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=answer_headers(answer.headers))
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        await response.write_eof()
    return response


async def _serve_socket(client: aiohttp.ClientSession, request: web.Request, target: URL, headers: CIMultiDict[str]) -> web.StreamResponse:
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if each.strip()]
    try:
        program = await client.ws_connect(target, protocols=offered[:8], headers=headers, max_msg_size=proxying.MAX_MESSAGE_BYTES, compress=0)
    except aiohttp.WSServerHandshakeError as error:
        raise Unserved(f"the program refused the WebSocket with HTTP status {error.status}", status=502, reason="BadGateway") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _silent(target.port or 0, error) from error
    async with program:
        caller = web.WebSocketResponse(
            protocols=[program.protocol] if program.protocol else [], max_msg_size=proxying.MAX_MESSAGE_BYTES, compress=False
        )
        await caller.prepare(request)
        await proxying.carry(caller, program)
    return caller


def _passes(name: str) -> bool:
    lower = name.lower()
    return lower not in _HOP and lower not in _SECRET and not lower.startswith(_WHO)


def _silent(port: int, error: BaseException) -> Unserved:
    return Unserved(f"what listens on port {port} gave no answer of HTTP: {error or type(error).__name__}", status=502, reason="BadGateway")
