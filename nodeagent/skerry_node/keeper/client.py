"""The agent's end of the keeper: start it when it is not there, ask it for things, hear of ends. Asyncio.

The keeper is one process per node that outlives the agent. It is found by its socket; a socket that nobody answers is a dead keeper's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skerry_node.keeper import bootstrap, detaching, sealed, wire
from skerry_node.keeper.settings import Settings

_START_SECONDS = 10.0
_REPLY_SECONDS = 30.0
_CREDENTIALS = struct.Struct("=3i")
"""struct ucred of SO_PEERCRED (unix(7)): pid, uid, gid."""


class KeeperLost(Exception):
    """The keeper does not answer: it died, or was never there. Asking again starts the next one."""


class Refused(Exception):
    """The keeper, or the child inside, could not do it. *field* is the manifest's field at fault, empty for our own."""

    def __init__(self, *, problem: str, field: str = "", reason: str = "StartFailed", errno: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field
        self.reason = reason
        self.errno = errno


@dataclass(frozen=True, slots=True)
class State:
    """What the keeper holds: its pid, the first process of each sandbox by uid, and by slot each parked shell with the layers of its root."""

    pid: int
    children: dict[str, int]
    shells: dict[int, tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class Launched:
    """A program that runs: its pid on the host, whether a shell was ready, and seconds from request to exec."""

    pid: int
    warm: bool
    seconds: float


class Client:
    """One connection to the node's keeper. `on_exit(uid)` is called as ends arrive, `on_lost()` when the connection breaks."""

    def __init__(
        self, settings: Settings, *, on_exit: Callable[[str], None], on_lost: Callable[[], None], outside: bootstrap.Outside | None = None
    ) -> None:
        self._settings = settings
        self._outside = outside
        self._runtime: sealed.Runtime | None = None
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[wire.Message]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.on_answer: Callable[[str, float, bool], None] = lambda *_: None
        """Hears of each request: what was asked, seconds, whether it was done."""

    @property
    def pid(self) -> int | None:
        """The keeper on the line; None without one."""
        connection = self._writer.get_extra_info("socket") if self._writer is not None else None
        if connection is None:
            return None
        return int(_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]) or None

    @property
    def is_connected(self) -> bool:
        """Whether a keeper is on the line."""
        return self._writer is not None

    async def connect(self) -> bool:
        """Connect to the keeper, starting it when none listens; True when it was started now. Raises KeeperLost."""
        if await self._try_connect():
            return False
        try:
            await asyncio.to_thread(bootstrap.spawn, self._settings, self._outside)
        except (subprocess.SubprocessError, OSError) as error:
            raise KeeperLost(f"the keeper did not start: {error}") from error
        for _ in range(int(_START_SECONDS / 0.01)):
            if await self._try_connect():
                return True
            await asyncio.sleep(0.01)
        raise KeeperLost(f"the keeper did not start; see {bootstrap.find_log(self._settings)}")

    async def connect_only(self) -> bool:
        """Connect to a keeper that is there; False when none is."""
        return await self._try_connect()

    async def wait(self) -> None:
        """Until somebody has connected to a keeper, which is a moment away when the agent starts, or the last one died. Raises KeeperLost."""
        deadline = time.monotonic() + _START_SECONDS
        while self._writer is None:
            if time.monotonic() > deadline:
                raise KeeperLost("no connection to the keeper")
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Hang up; the keeper goes on."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._drop()

    async def state(self) -> State:
        """What the keeper holds now."""
        raw = await self._ask("state")
        children = {uid: child["pid"] for uid, child in raw["children"].items()}
        shells = {slot: tuple(layers) if layers is not None else None for slot, layers in raw["shells"]}
        return State(pid=raw["pid"], children=children, shells=shells)

    async def prepare(self, shell: wire.Shell, *, dress: wire.Dress | None = None) -> None:
        """Park a shell in its slot, with a root where *dress* says one; a shell that is there already is fine."""
        await self._ask("prepare", shell=wire.render_shell(shell), dress=wire.render_dress(dress))

    async def discard(self, slot: int) -> None:
        """End the shell in *slot*; none there is fine."""
        await self._ask("discard", slot=slot)

    async def launch(self, launch: wire.Launch, *, volume_fds: Sequence[int] = ()) -> Launched:
        """Start a sandbox, and return once its program runs. *volume_fds* stay the caller's. Raises Refused."""
        if volume_fds:
            with self._timed("launch"):
                raw = await asyncio.to_thread(self._ask_alone, "launch", volume_fds, launch=wire.render_launch(launch))
        else:
            raw = await self._ask("launch", launch=wire.render_launch(launch))
        return Launched(pid=raw["pid"], warm=raw["warm"], seconds=raw["seconds"])

    async def signal(self, uid: str, number: int) -> None:
        """Send a signal to the first process of *uid*; one that has ended is fine."""
        await self._ask("signal", uid=uid, signal=number)

    async def forget_layer(self, layer: str) -> tuple[int, ...]:
        """Unmount a layer that no sandbox uses; returns the slots of the shells that had it in their root and are gone now."""
        return tuple((await self._ask("forget_layer", layer=layer))["dropped"])

    async def renew(self) -> bool:
        """Have the keeper become that of our own version, where it is another's and nothing would be lost; whether it does so now.

        Children, their output and their ends stay: it executes the new one, which adopts them. The connection breaks. Only for a keeper outside.
        """
        if self._outside is None:
            return False
        if self._runtime is None:
            self._runtime = await asyncio.to_thread(sealed.ensure, self._outside.directory)
        runtime = self._runtime
        state = await self._ask("state")
        if state.get("runtime", "") == runtime.digest:
            return False
        argv = bootstrap.render_command(self._settings, runtime)
        host = os.open(os.path.join(detaching.find_host(os.getppid()), "mnt"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = await asyncio.to_thread(self._ask_alone, "renew", [host], argv=argv)
        finally:
            os.close(host)
        return bool(raw["renewed"])

    async def stop(self) -> None:
        """End the keeper; sandboxes go on without one. Only a purge does this."""
        await self._ask("stop")

    @contextlib.contextmanager
    def _timed(self, do: str) -> Iterator[None]:
        began, is_done = time.perf_counter(), False
        try:
            yield
            is_done = True
        finally:
            self.on_answer(do, time.perf_counter() - began, is_done)

    async def _ask(self, do: str, **fields: Any) -> wire.Message:
        with self._timed(do):
            return await self._ask_now(do, fields)

    async def _ask_now(self, do: str, fields: wire.Message) -> wire.Message:
        if self._writer is None:
            raise KeeperLost("no connection to the keeper")
        number = next(self._numbers)
        future: asyncio.Future[wire.Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._writer.write(wire.encode({"id": number, "do": do, **fields}))
            async with asyncio.timeout(_REPLY_SECONDS):  # wait_for of Python 3.11 may swallow a cancellation
                reply = await future
        except (TimeoutError, ConnectionError) as error:
            raise KeeperLost(f"the keeper did not answer {do!r}") from error
        finally:
            self._waiting.pop(number, None)
        return _take_result(reply)

    def _ask_alone(self, do: str, fds: Sequence[int], **fields: Any) -> wire.Message:
        """Ask on a connection of its own, that carries fds. Blocks."""
        buffer, message = bytearray(), wire.encode({"id": 0, "do": do, **fields})
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_REPLY_SECONDS)
                connection.connect(self._settings.socket_path)
                sent = socket.send_fds(connection, [message], fds)
                connection.sendall(message[sent:])
                while part := connection.recv(1 << 16):
                    buffer += part
                    while (reply := wire.take(buffer)) is not None:
                        if "id" in reply:
                            return _take_result(reply)
        except (OSError, wire.BrokenPeer) as error:
            raise KeeperLost(f"the keeper did not answer {do!r}") from error
        raise KeeperLost("the keeper died")

    async def _try_connect(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._settings.socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader))
        return True

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        try:
            while part := await reader.read(1 << 18):
                buffer += part
                while (message := wire.take(buffer)) is not None:
                    self._deliver(message)
        except (ConnectionError, wire.BrokenPeer):
            pass
        self._drop()
        self._on_lost()

    def _deliver(self, message: wire.Message) -> None:
        if "id" not in message:
            self._on_exit(message["uid"])
            return
        future = self._waiting.get(message["id"])
        if future is not None and not future.done():
            future.set_result(message)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(KeeperLost("the keeper died"))


def _take_result(reply: wire.Message) -> wire.Message:
    if "error" in reply:
        raise Refused(**reply["error"])
    result: wire.Message = reply["ok"]
    return result
