"""A layer on its way into the store: bytes go to a confined converter as they come; what it wrote is synced and renamed to its name.

Until the rename nothing is visible. A crash leaves a temporary file, which the store sweeps when it is opened. The caller holds the diff id
(`Store.hold`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from skerry_node.image import verity, workers
from skerry_node.image.errors import ConversionFailed, InvalidLayer
from skerry_node.image.layer import Promise
from skerry_node.image.record import Blob, Layer, layer_name
from skerry_node.image.sealing import Sealed
from skerry_node.image.unpacking import Source

if TYPE_CHECKING:
    from skerry_node.image.store import Store

__all__ = ["Conversion", "Promise", "convert", "start"]

_PIECE_BYTES = 1 << 20
_STALL_SECONDS = 120.0
"""How long a converter may take in no byte, or be at its end without a word."""


def convert(store: Store, promise: Promise, blob: Source) -> Layer:
    """Make the sealed layer from *blob*; blocks. Raises DamagedContent, InvalidLayer, ConversionFailed, OSError; nothing is left behind then."""
    target = _Target(store, promise)
    try:
        worker = store.nursery.spawn(promise, target.fd)
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early, and says why
                while piece := blob.read(_PIECE_BYTES):
                    _write_all(worker.input_fd, piece)
            worker.close_input()
            with open(worker.result_fd, "rb", closefd=False) as result:
                said = result.read()
            sealed = workers.read_result(worker, said)
        finally:
            worker.close()
        return target.land(sealed)
    finally:
        target.close()


async def start(store: Store, promise: Promise) -> Conversion:
    """A conversion that is fed as bytes arrive. End it with `end` and `land`, or with `abort`. Raises ConversionFailed, OSError."""
    target = await asyncio.to_thread(_Target, store, promise)
    try:
        worker = await asyncio.to_thread(store.nursery.spawn, promise, target.fd)
    except BaseException:
        target.close()
        raise
    return Conversion(target, worker)


class Conversion:
    """One layer being converted. Belongs to the loop that it was started in."""

    def __init__(self, target: _Target, worker: workers.Worker) -> None:
        self._target, self._worker = target, worker
        self._loop = asyncio.get_running_loop()
        self._said = b""
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._is_open = True
        os.set_blocking(worker.input_fd, False)
        os.set_blocking(worker.result_fd, False)
        self._loop.add_reader(worker.result_fd, self._on_result)

    async def feed(self, chunk: bytes | memoryview) -> None:
        """Take *chunk*, when there is room. Raises what `end` raises as soon as the converter has found the layer wanting."""
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(self._worker.input_fd, view) :]
            except BlockingIOError:
                await self._wait_for_room()
            except BrokenPipeError:
                await self._read_result()
                raise ConversionFailed(f"layer {self._target.promise.digest}: its converter took no more than a part of it") from None

    async def end(self) -> Sealed:
        """All is fed: wait for the converter. Raises DamagedContent, InvalidLayer, ConversionFailed, OSError."""
        self._worker.close_input()
        return await self._read_result()

    async def land(self, sealed: Sealed) -> Layer:
        """Wait for the disk: the layer is in the store then. Raises ConversionFailed, OSError; nothing is left behind then."""
        try:
            return await asyncio.to_thread(self._target.land, sealed)
        finally:
            self._close()

    async def abort(self) -> None:
        """Give it up; nothing is left behind. Repeatable, also after `land`."""
        self._close()

    def _on_result(self) -> None:
        try:
            piece = os.read(self._worker.result_fd, 4096)
        except BlockingIOError:
            return
        self._said += piece
        if not piece or len(self._said) > workers.MAX_RESULT_BYTES:
            self._loop.remove_reader(self._worker.result_fd)
            _settle(self._ended)

    async def _read_result(self) -> Sealed:
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                await asyncio.shield(self._ended)
        except TimeoutError:
            raise InvalidLayer(f"layer {self._target.promise.digest}: its converter was not done {_STALL_SECONDS:.0f} s after its end") from None
        return workers.read_result(self._worker, self._said)

    async def _wait_for_room(self) -> None:
        room: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._worker.input_fd, _settle, room)
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                await room
        except TimeoutError:
            raise InvalidLayer(f"layer {self._target.promise.digest}: its converter took in nothing for {_STALL_SECONDS:.0f} s") from None
        finally:
            self._loop.remove_writer(self._worker.input_fd)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._worker.result_fd)
            self._worker.close()
            self._target.close()


class _Target:
    """The file that a layer becomes: under a temporary name until `land`. `close` in any case."""

    def __init__(self, store: Store, promise: Promise) -> None:
        self.promise = promise
        self._store = store
        self._directory_fd = store.layers_fd
        self._name = layer_name(promise.diff_id)
        self._temporary = f".{self._name}.{os.getpid()}.{os.urandom(4).hex()}"
        self.fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400, dir_fd=self._directory_fd)

    def land(self, sealed: Sealed) -> Layer:
        """Sync, seal by the filesystem too where it can, rename; blocks for the disk. Raises OSError, ConversionFailed."""
        if os.fstat(self.fd).st_size != sealed.size_bytes:
            raise ConversionFailed(f"layer {self.promise.digest}: its converter wrote another file than it says")
        os.fsync(self.fd)
        os.close(self.fd)
        self.fd = -1
        self._store.note_verity(verity.enable(self._temporary, directory_fd=self._directory_fd))
        os.rename(self._temporary, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        os.fsync(self._directory_fd)
        self._store.verified.add(self._name)
        promise = self.promise
        blob = Blob(digest=promise.digest, size_bytes=promise.size_bytes, media_type=promise.media_type)
        return Layer(diff_id=promise.diff_id, size_bytes=sealed.size_bytes, path=self._name, seal=sealed.seal, blob=blob)

    def close(self) -> None:
        """Remove what did not land."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._directory_fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _write_all(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]
