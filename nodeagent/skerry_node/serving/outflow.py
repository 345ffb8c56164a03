"""Bytes that a thread makes, sent as they come: bounded memory, the reader's pace, and no half of an answer that looks whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from aiohttp import web

_LOG = logging.getLogger("skerry.serving")
_PIECE_BYTES, _QUEUE_LENGTH = 512 << 10, 4


class ReaderGone(Exception):
    """The client went away, so that what is being made has no reader."""


class Outflow:
    """Where the thread writes. Raises ReaderGone once nobody reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buffer = bytearray()
        self._is_closed = False
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE_LENGTH)

    def write(self, data: bytes, /) -> None:
        """Take *data*; blocks while the reader is behind."""
        self._buffer += data
        if len(self._buffer) >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is held back."""
        if self._is_closed:
            raise ReaderGone
        if self._buffer:
            piece, self._buffer = bytes(self._buffer), bytearray()
            asyncio.run_coroutine_threadsafe(self.queue.put(piece), self._loop).result()

    def close(self) -> None:
        """Nobody reads any more: the next write fails, and one that waits is let go. In the event loop."""
        self._is_closed = True
        while not self.queue.empty():
            self.queue.get_nowait()


async def respond(request: web.Request, make: Callable[[Outflow], None], *, content_type: str = "application/x-tar") -> web.StreamResponse:
    """Answer with what *make* writes, in a thread. What it raises before its first piece is the answer; later the connection is cut."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.enable_chunked_encoding()
    outflow = Outflow(asyncio.get_running_loop())
    task = asyncio.create_task(_work(make, outflow))
    try:
        while (piece := await outflow.queue.get()) is not None:
            if not response.prepared:
                await response.prepare(request)
            await response.write(piece)
        await task
    except (asyncio.CancelledError, ConnectionError):
        await _abandon(task, outflow)
        raise
    except Exception:
        if not response.prepared:
            raise
        _LOG.exception("an answer broke off path=%s", request.path)
        _cut(request)
        return response
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response


async def _work(make: Callable[[Outflow], None], outflow: Outflow) -> None:
    try:
        await asyncio.to_thread(_make, make, outflow)
    finally:
        await outflow.queue.put(None)


def _make(make: Callable[[Outflow], None], outflow: Outflow) -> None:
    make(outflow)
    outflow.flush()


async def _abandon(task: asyncio.Task[None], outflow: Outflow) -> None:
    while not task.done():
        outflow.close()
        await asyncio.wait([task], timeout=0.05)
    outflow.close()
    with contextlib.suppress(Exception):
        task.result()


def _cut(request: web.Request) -> None:
    """End the connection without the last chunk: the client sees that it is not all."""
    if request.transport is not None:
        request.transport.abort()
