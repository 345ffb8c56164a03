"""One TCP connection of a sandbox as a transport for an HTTP client: the agent's port-forward WebSocket, unwrapped into a socket of ours.

Frames are Kubernetes' port-forward over v5.channel.k8s.io: channel 0 is data, 1 an error, 255 closes the channel in the next byte; each of the first
two begins with the port as two bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp
from aiohttp.client_proto import ResponseHandler

_DATA, _ERROR, _CLOSE = 0, 1, 255
_CHUNK_BYTES = 1 << 16


class _OneConnection(aiohttp.BaseConnector):
    """Every request goes over the one socket that is there; there is to be one request only."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(force_close=True)
        self._end = end

    async def _create_connection(self, *_: object, **__: object) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        made = await loop.create_connection(lambda: ResponseHandler(loop=loop), sock=self._end)
        return made[1]


@contextlib.asynccontextmanager
async def session_over(agent: aiohttp.ClientWebSocketResponse) -> AsyncIterator[aiohttp.ClientSession]:
    """A client for one request over the port-forward *agent*. Nothing is followed, unpacked or remembered."""
    near, far = socket.socketpair()
    far.setblocking(False)  # noqa: FBT003 - the socket module's own signature
    near.setblocking(False)  # noqa: FBT003 - likewise
    pumps = (asyncio.create_task(_to_sandbox(far, agent)), asyncio.create_task(_from_sandbox(agent, far)))
    try:
        async with aiohttp.ClientSession(
            connector=_OneConnection(near), cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
        ) as session:
            yield session
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        near.close()
        far.close()


async def _to_sandbox(far: socket.socket, agent: aiohttp.ClientWebSocketResponse) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, aiohttp.ClientError):
        while data := await loop.sock_recv(far, _CHUNK_BYTES):
            await agent.send_bytes(bytes((_DATA,)) + data)
        await agent.send_bytes(bytes((_CLOSE, _DATA)))


async def _from_sandbox(agent: aiohttp.ClientWebSocketResponse, far: socket.socket) -> None:
    """What it sends, until it ends: then the client reads the end too."""
    loop = asyncio.get_running_loop()
    begun: set[int] = set()
    with contextlib.suppress(OSError, aiohttp.ClientError):
        async for message in agent:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _ERROR and _ERROR in begun:
                break
            if channel == _CLOSE:
                break
            if channel not in begun:
                begun.add(channel)
                data = data[2:]
            if channel == _DATA and data:
                await loop.sock_sendall(far, data)
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_WR)
