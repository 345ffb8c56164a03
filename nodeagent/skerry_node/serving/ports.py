"""One TCP connection of a sandbox over a WebSocket, with the framing of Kubernetes' port-forward: channel 0 is data, channel 1 an error.

Each channel begins with the port as two bytes, little-endian (k8s.io/kubelet, pkg/cri/streaming/portforward). A close of channel 0 is a half-close.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from aiohttp import WSMsgType, web

from skerry_node.serving import channels

DATA, ERROR = 0, 1
_CHUNK_BYTES = 1 << 17
_PORT = struct.Struct("<H")


async def serve_connection(answer: web.WebSocketResponse, connection: socket.socket, *, port: int) -> None:
    """Carry bytes both ways until both have ended or the client goes. Closes *connection*."""
    connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
    with connection:
        sending = asyncio.ensure_future(_send(answer, connection, port))
        try:
            with contextlib.suppress(OSError):
                await _receive(answer, connection)
        finally:  # the client has gone, or the door cancels us because it has
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await sending
    with contextlib.suppress(ConnectionError):
        await answer.close()


async def _send(answer: web.WebSocketResponse, connection: socket.socket, port: int) -> None:
    loop = asyncio.get_running_loop()
    for channel in (DATA, ERROR):
        await answer.send_bytes(channels.frame(channel, _PORT.pack(port)))
    try:
        while data := await loop.sock_recv(connection, _CHUNK_BYTES):
            await answer.send_bytes(channels.frame(DATA, data))
    except ConnectionResetError:
        await answer.send_bytes(channels.frame(ERROR, b"the connection was reset"))
    await answer.send_bytes(channels.frame(channels.CLOSE, bytes((DATA,))))


async def _receive(answer: web.WebSocketResponse, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async for message in answer:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        if message.data[0] == DATA:
            await loop.sock_sendall(connection, message.data[1:])
        elif message.data[0] == channels.CLOSE:
            connection.shutdown(socket.SHUT_WR)
