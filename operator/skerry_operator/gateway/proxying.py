"""Bytes between a caller and an agent, at the pace of the slower side: plain HTTP both ways, or WebSocket messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

from skerry_api import streaming
from skerry_operator.gateway.errors import Unserved

MAX_MESSAGE_BYTES = 4 << 20
"""Of one WebSocket message; senders of ours stay far below."""
_CONNECT_SECONDS = 5.0
_CHUNK_BYTES = 1 << 16
_PASSED_ON = ("Content-Type",)
_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an agent."""

    door: str
    node: str
    path: str
    query: Sequence[tuple[str, str]]
    ticket: str
    tls: ssl.SSLContext

    @property
    def url(self) -> URL:
        """Where to."""
        return URL(f"https://{self.door}").with_path(self.path).with_query(list(self.query))

    @property
    def host(self) -> str:
        """The name that the agent's certificate must have."""
        return streaming.agent_host(self.node)


class Unreachable(Unserved):
    """No agent answers at the door that is known."""

    def __init__(self, node: str, error: BaseException) -> None:
        message = f"the agent of node {node} does not answer: {error or type(error).__name__}"
        super().__init__(message, status=502, reason="BadGateway")


def make_session() -> aiohttp.ClientSession:
    """For calls to agents; close it. No redirects, no cookies, no proxies: an agent only answers."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, socket_factory=_make_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        auto_decompress=False,
        trust_env=False,
    )


async def forward(session: aiohttp.ClientSession, request: web.Request, call: Call) -> web.StreamResponse:
    """Body there, answer back. Raises Unreachable when nothing was answered."""
    body = request.content.iter_chunked(_CHUNK_BYTES) if request.body_exists else None
    headers = {streaming.TICKET_HEADER: call.ticket, **{name: request.headers[name] for name in _PASSED_ON if name in request.headers}}
    try:
        answer = await session.request(
            request.method, call.url, data=body, headers=headers, ssl=call.tls, server_hostname=call.host, allow_redirects=False
        )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(call.node, error) from error
    async with answer:
        if answer.status >= 400:
            raise _refusal(answer.status, answer.headers.get(streaming.REFUSAL_HEADER, ""))
        response = web.StreamResponse(status=answer.status, headers={name: answer.headers[name] for name in _PASSED_ON if name in answer.headers})
        if answer.content_length is not None:
            response.content_length = answer.content_length
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    return response


async def forward_socket(session: aiohttp.ClientSession, request: web.Request, call: Call) -> web.StreamResponse:
    """A WebSocket to the agent first, then one to the caller with the protocol that the agent chose. Raises Unserved, Unreachable."""
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if each.strip()]
    async with dial(session, call, protocols=offered[:8]) as agent:
        caller = web.WebSocketResponse(protocols=[agent.protocol] if agent.protocol else [], max_msg_size=MAX_MESSAGE_BYTES, compress=False)
        await caller.prepare(request)
        await carry(caller, agent)
    return caller


async def carry(caller: web.WebSocketResponse, other: aiohttp.ClientWebSocketResponse) -> None:
    """Messages both ways until one side closes; then the caller's is closed too."""
    pumps = {asyncio.create_task(_pump(caller, other)), asyncio.create_task(_pump(other, caller))}
    try:
        # Half-close is a message of the protocol (v5 CLOSE) and passes as any; when either side closes the socket, all is over.
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        with contextlib.suppress(Exception):
            await caller.close(code=other.close_code or aiohttp.WSCloseCode.GOING_AWAY)


@contextlib.asynccontextmanager
async def dial(session: aiohttp.ClientSession, call: Call, *, protocols: Sequence[str]) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket to the agent. Raises Unserved, Unreachable."""
    try:
        agent = await session.ws_connect(
            call.url, protocols=protocols, headers={streaming.TICKET_HEADER: call.ticket}, ssl=call.tls, server_hostname=call.host,
            max_msg_size=MAX_MESSAGE_BYTES, compress=0,
        )  # fmt: skip
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal(error.status, error.headers.get(streaming.REFUSAL_HEADER, "") if error.headers else "") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(call.node, error) from error
    async with agent:
        yield agent


async def _pump(source: _Socket, sink: _Socket) -> None:
    """Messages until either side closes. A send waits while the sink's buffer is full, and then nothing more is read from the source."""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        async for message in source:
            if message.type is aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)


def _refusal(status: int, text: str) -> Unserved:
    """The agent's {reason, message, field} as an error of ours."""
    message, reason = f"the agent answered with HTTP status {status}", "Refused"
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        body = json.loads(text)
        field = str(body.get("field") or "")
        message, reason = (f"{field}: " if field else "") + str(body["message"]), str(body["reason"])
    return Unserved(message, status=status if status >= 400 else 502, reason=reason)


def _make_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """Dead peers are found by TCP: a ping of WebSocket would take a reader who pauses for a dead one."""
    made = socket.socket(*info[:3])
    made.settimeout(0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
