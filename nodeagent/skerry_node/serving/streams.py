"""Streams of a sandbox over a WebSocket: exec and attach to one. The same functions stand behind every door that has let a request in.

Each takes a prepared WebSocket that speaks `channels`, and ends with a status on channel 3 and a close.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import WSMsgType, web

from skerry_node.serving import channels
from skerry_node.sessions.session import Exit, Session, decode
from skerry_node.sessions.table import Sessions

MAX_MESSAGE_BYTES = 4 << 20


def make_socket() -> web.WebSocketResponse:
    """A WebSocket with our protocol and bounds. Not compressed: it would cost more than it saves here."""
    return web.WebSocketResponse(protocols=(channels.PROTOCOL,), max_msg_size=MAX_MESSAGE_BYTES, compress=False)


class _Client:
    """session.Sink over a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def send(self, number: int, data: bytes) -> None:
        await self._socket.send_bytes(channels.frame(number, data))

    async def close(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._socket.send_bytes(channels.frame(channels.STATUS, channels.render_failure("another client has attached", code=409)))
        await self._socket.close()


async def serve_session(socket: web.WebSocketResponse, sessions: Sessions, session: Session, *, is_kept: bool) -> None:
    """Connect *session* to the client until it ends or the client goes. Unless *is_kept*, one without a client is hung up as a terminal is."""
    client = _Client(socket)
    reading = asyncio.ensure_future(_read(socket, session))
    is_detaching = has_told = False
    try:
        await session.attach(client)
        await asyncio.wait((reading, session.exit), return_when=asyncio.FIRST_COMPLETED)
        if session.exit.done() and session.detach(client):
            reading.cancel()
            await asyncio.wait((reading,))  # or the client's answer to our close would be its to take
            await _send_status(socket, session.exit.result())
            has_told = True
        else:
            is_detaching = await reading
        await socket.close()
    except channels.BadMessage as error:
        await _refuse(socket, str(error))
    except ConnectionError:
        pass
    finally:  # also when the door cancels us because the client is gone
        reading.cancel()
        if has_told:
            sessions.discard(session)
        elif session.detach(client) and not is_kept and not is_detaching and not session.exit.done():
            sessions.hang_up(session)


async def _refuse(socket: web.WebSocketResponse, message: str) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(channels.frame(channels.STATUS, channels.render_failure(message, reason="BadRequest", code=400)))
        await socket.close()


async def _read(socket: web.WebSocketResponse, session: Session) -> bool:
    """What the client sends, until it goes; whether it said that it detaches."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], memoryview(message.data)[1:]
        if channel == channels.STDIN:
            await session.write(data)
        elif channel == channels.RESIZE:
            session.resize(*channels.parse_resize(bytes(data)))
        elif channel == channels.CLOSE and data[:1] == bytes((channels.STDIN,)):
            await session.close_input()
        elif channel == channels.CONTROL:
            wanted = channels.parse_control(bytes(data))
            if wanted.is_detach:
                return True
            if wanted.signal is not None:
                await session.signal(wanted.signal)
    return False


async def _send_status(socket: web.WebSocketResponse, end: Exit) -> None:
    code, name = decode(end.status)
    status = channels.render_status(code, signal_name=name, has_timed_out=end.has_timed_out)
    await socket.send_bytes(channels.frame(channels.STATUS, status))
