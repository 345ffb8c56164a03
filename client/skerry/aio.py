"""The SDK for asyncio: the same verbs as coroutines.

Each call runs the synchronous one in a thread of its own, so that both are one implementation. A call that is cancelled is left to end by itself; a
stream that is left is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from skerry import client

if TYPE_CHECKING:
    from types import TracebackType

    from skerry.client import Client
    from skerry.execcalls import ExecResult
    from skerry.handles import SandboxHandle, Stats
    from skerry.outputcalls import LogPiece
    from skerry.streaming import End, Stream
    from skerry_api.sandbox import Sandbox, Termination

T = TypeVar("T")


async def connect(*, kubeconfig_path: str | None = None, context: str | None = None, namespace: str | None = None) -> AsyncClient:
    """As skerry.connect."""
    return AsyncClient(await call(client.connect, kubeconfig_path=kubeconfig_path, context=context, namespace=namespace))


async def call(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """*function* in a thread of its own: one that waits for hours holds no worker of the loop, and does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            setter(value)

    def run() -> None:
        try:
            result = function(*args, **options)
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            outcome = functools.partial(settle, done.set_exception, error)
        else:
            outcome = functools.partial(settle, done.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(outcome)

    threading.Thread(target=run, daemon=True, name=f"skerry-{getattr(function, '__name__', 'call')}").start()
    return await done


class AsyncClient:
    """skerry.Client for asyncio; *over* is the one that does the work."""

    def __init__(self, over: Client | None = None) -> None:
        self.over = over or client.Client()

    async def sandbox(self, image: str, command: Sequence[str] | None = None, *, name: str | None = None, **options: Any) -> AsyncSandbox:
        """A new sandbox that runs; leave its `async with` to remove it. As Client.sandbox."""
        return AsyncSandbox(await call(self.over.sandbox, image, command, name=name, **options))

    def handle(self, name: str, *, namespace: str | None = None) -> AsyncSandbox:
        """The sandbox that has this name, whether it is there or not."""
        return AsyncSandbox(self.over.handle(name, namespace=namespace))

    async def create(self, manifest: Mapping[str, Any]) -> Sandbox:
        """As Client.create."""
        return await call(self.over.create, manifest)

    async def get(self, name: str, *, namespace: str | None = None) -> Sandbox:
        """As Client.get."""
        return await call(self.over.get, name, namespace=namespace)

    async def list(self, *, namespace: str | None = None) -> tuple[Sandbox, ...]:
        """As Client.list."""
        return await call(self.over.list, namespace=namespace)

    async def delete(self, name: str, *, namespace: str | None = None) -> None:
        """As Client.delete."""
        await call(self.over.delete, name, namespace=namespace)


class AsyncSandbox:
    """skerry.SandboxHandle for asyncio."""

    def __init__(self, over: SandboxHandle) -> None:
        self.over = over

    @property
    def name(self) -> str:
        """Its name."""
        return self.over.name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.remove()

    async def read(self) -> Sandbox:
        """As SandboxHandle.read."""
        return await call(self.over.read)

    async def wait_ready(self, *, timeout_seconds: float = 120.0) -> Sandbox:
        """As SandboxHandle.wait_ready."""
        return await call(self.over.wait_ready, timeout_seconds=timeout_seconds)

    async def wait(self, *, timeout_seconds: float | None = None) -> Termination | None:
        """As SandboxHandle.wait."""
        return await call(self.over.wait, timeout_seconds=timeout_seconds)

    async def exec(self, command: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> ExecResult:
        """Run a program to its end and collect what it writes."""
        return await call(self.over.exec, command, stdin=stdin, **options)

    @contextlib.asynccontextmanager
    async def open_exec(self, command: Sequence[str], **options: Any) -> AsyncIterator[AsyncStream]:
        """A program and its streams as they come; it is hung up when the block is left."""
        stream = AsyncStream(await call(self.over.open_exec, command, **options))
        try:
            yield stream
        finally:
            await call(stream.over.close)

    async def logs(self, **options: Any) -> AsyncIterator[LogPiece]:
        """Its output, piece by piece."""
        pieces: Iterator[LogPiece] = self.over.logs(**options)
        while (piece := await call(next, pieces, None)) is not None:
            yield piece

    async def stats(self) -> Stats:
        """What it uses now."""
        return await call(self.over.stats)

    async def read_file(self, path: str, **options: Any) -> bytes:
        """The content of a file."""
        return await call(self.over.read_file, path, **options)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Make or replace a file."""
        await call(self.over.write_file, path, data, mode=mode)

    async def copy_in(self, source: str, target: str) -> None:
        """A local file or tree into it."""
        await call(self.over.copy_in, source, target)

    async def copy_out(self, source: str, target: str) -> None:
        """A file or tree of it to here."""
        await call(self.over.copy_out, source, target)

    async def stop(self, *, grace_seconds: int | None = None) -> Termination | None:
        """Stop its program and wait."""
        return await call(self.over.stop, grace_seconds=grace_seconds)

    async def start(self) -> Sandbox:
        """Run its program again and wait until it runs."""
        return await call(self.over.start)

    async def remove(self) -> None:
        """Remove it and wait until it is gone."""
        await call(self.over.remove)


class AsyncStream:
    """skerry.streaming.Stream for asyncio; iterate over it for pairs of channel (1 stdout, 2 stderr) and bytes."""

    def __init__(self, over: Stream) -> None:
        self.over = over

    @property
    def end(self) -> End | None:
        """How the program ended, once the iteration has."""
        return self.over.end

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while (piece := await call(self.over.receive)) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        """To its standard input; waits while the program does not read."""
        await call(self.over.send, 0, data)

    async def close_stdin(self) -> None:
        """Let the program read an end of file."""
        await call(self.over.close_stdin)

    async def resize(self, columns: int, rows: int) -> None:
        """The size of its terminal."""
        await call(self.over.resize, columns, rows)

    async def signal(self, name: str) -> None:
        """Send a signal to the program."""
        await call(self.over.signal, name)
