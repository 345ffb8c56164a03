"""A layer's conversion, fed from the event loop: at most a few MiB wait for it, and the network waits with them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Executor
from typing import Any, BinaryIO, cast

from skerry_node.image import layer
from skerry_node.image.store import Store, layer_name

_BUFFER_BYTES = 4 << 20


class Conversion:
    """One conversion in a thread of *executor*. `feed` it all, then `finish`; or `abort`, and nothing is left."""

    def __init__(self, store: Store, promise: layer.Promise, *, executor: Executor) -> None:
        self._pipe = _Pipe(asyncio.get_running_loop())
        name = layer_name(promise.diff_id)

        def convert() -> layer.Sealed:
            return layer.convert(cast("BinaryIO", self._pipe), promise, directory_fd=store.layers_fd, name=name)

        self._task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(executor, convert))

    async def feed(self, piece: bytes) -> None:
        """Hand over *piece*, waiting for room. Raises what the conversion raises."""
        self._pipe.put(piece)
        while self._pipe.is_full:
            waiting: asyncio.Future[Any] = asyncio.ensure_future(self._pipe.room.wait())
            either: set[asyncio.Future[Any]] = {waiting, self._task}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if self._task.done():
                self._task.result()
                return  # it has all it needs

    async def finish(self) -> layer.Sealed:
        """No more comes: prove, seal, show. Raises DamagedContent, InvalidLayer, OSError; nothing is visible then."""
        self._pipe.end()
        return await self._task

    async def abort(self) -> None:
        """Give up; returns when nothing is left of it."""
        self._pipe.fail()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # seen


class _Pipe:
    """What the conversion reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.room = asyncio.Event()
        self._loop = loop
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._is_ended = self._is_failed = False
        self._change = threading.Condition()

    @property
    def is_full(self) -> bool:
        return self._bytes > _BUFFER_BYTES

    def put(self, piece: bytes) -> None:
        with self._change:
            self._pieces.append(piece)
            self._bytes += len(piece)
            if self.is_full:
                self.room.clear()
            self._change.notify()

    def end(self) -> None:
        with self._change:
            self._is_ended = True
            self._change.notify()

    def fail(self) -> None:
        with self._change:
            self._is_failed = True
            self._change.notify()

    def read(self, size: int) -> bytes:
        """At most *size* bytes; none at the end. Called in the thread. Raises OSError when all was given up."""
        with self._change:
            while not self._pieces and not self._is_ended and not self._is_failed:
                self._change.wait()
            if self._is_failed:
                raise OSError("the transfer was given up")
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            was_full = self.is_full
            self._bytes -= len(piece)
            if was_full and not self.is_full:
                self._loop.call_soon_threadsafe(self.room.set)
            return piece
