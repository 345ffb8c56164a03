"""The first process's output over a WebSocket, from now on to its end. It has no input: that of a program is an exec's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import WSMsgType, web

from skerry_node import logfiles
from skerry_node.serving import channels

_CHANNELS = {"stdout": channels.STDOUT, "stderr": channels.STDERR}


async def serve_output(
    answer: web.WebSocketResponse,
    *,
    directory: str,
    has_ended: Callable[[], bool],
    exit_code: Callable[[], int | None],
    signal: Callable[[int], Awaitable[None]],
) -> None:
    """Send what the program writes, at the client's pace: bytes wait in its files. *signal* gets the numbers that the client sends."""
    sending = asyncio.ensure_future(_send(answer, directory, has_ended, exit_code))
    try:
        async for message in answer:
            if message.type is WSMsgType.BINARY and message.data[:1] == bytes((channels.CONTROL,)):
                wanted = channels.parse_control(message.data[1:])
                if wanted.is_detach:
                    break
                if wanted.signal is not None:
                    await signal(wanted.signal)
    except channels.BadMessage as error:
        await answer.send_bytes(channels.frame(channels.STATUS, channels.render_failure(str(error), reason="BadRequest", code=400)))
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending
    with contextlib.suppress(ConnectionError):
        await answer.close()


async def _send(answer: web.WebSocketResponse, directory: str, has_ended: Callable[[], bool], exit_code: Callable[[], int | None]) -> None:
    lines = logfiles.follow(directory, has_ended=has_ended, tail=0, joins=True)
    async with contextlib.aclosing(lines):
        async for batch in lines:
            for line in batch:
                await answer.send_bytes(channels.frame(_CHANNELS[line.stream], line.data))
    await answer.send_bytes(channels.frame(channels.STATUS, channels.render_status(exit_code())))
    await answer.close()
