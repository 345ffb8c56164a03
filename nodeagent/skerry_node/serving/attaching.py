"""The first process over a WebSocket: its output, read from its log, to its end; and what is typed to it, where its manifest gives it an input."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import WSMsgType, web

from skerry_node import logfiles
from skerry_node.keeper import client
from skerry_node.serving import channels, exec_options, logs
from skerry_node.sessions import watching

if TYPE_CHECKING:
    from multidict import MultiMapping

_CHANNELS = {"stdout": channels.STDOUT, "stderr": channels.STDERR}


@dataclass(frozen=True, slots=True)
class Options:
    """What a client wants. *cursor* says where output begins, by stream; None: with what comes from now on. *is_only_one*: input ends with it."""

    has_input: bool
    is_only_one: bool
    cursor: Mapping[str, int] | None


class Input(Protocol):
    """What is typed goes here (sessions.consoles)."""

    async def write(self, data: bytes | memoryview) -> None:
        """To the program's input, at its pace."""
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """The terminal's new size."""
        ...

    async def close_input(self) -> None:
        """The end of the input."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """The first process as a client sees it: where its output is, whether and how it has ended, how it gets a signal and what is typed."""

    directory: str
    has_ended: Callable[[], bool]
    exit_code: Callable[[], int | None]
    signal: Callable[[int], Awaitable[None]]
    console: Input


def parse(query: MultiMapping[str]) -> Options:
    """From stdin, stdinOnce, cursor (`stdout:0,stderr:0`). Raises Refused."""
    cursor = query.get("cursor")
    return Options(
        has_input=exec_options.flag(query, "stdin"),
        is_only_one=exec_options.flag(query, "stdinOnce"),
        cursor=logs.parse_cursor(cursor) if cursor is not None else None,
    )


async def serve(answer: web.WebSocketResponse, options: Options, program: Program) -> None:
    """Send what the program writes, at the client's pace: bytes wait in its files. Take what the client types, at the program's."""
    sending = asyncio.ensure_future(_send(answer, options, program))
    reading = asyncio.ensure_future(_read(answer, options, program))
    is_detaching = False
    try:
        await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending
        else:
            is_detaching = await reading
    except channels.BadMessage as error:
        await _fail(answer, str(error), reason="BadRequest", code=400)
    except client.KeeperLost as error:
        await _fail(answer, f"{error}; try again in a moment", reason="KeeperLost", code=503)
    except ConnectionError:
        pass
    finally:  # also when the door cancels us because the client is gone
        for task in (sending, reading):
            task.cancel()
        await asyncio.wait((sending, reading))
        if options.has_input and options.is_only_one and not is_detaching:
            with contextlib.suppress(client.KeeperLost):
                await program.console.close_input()
    with contextlib.suppress(ConnectionError):
        await answer.close()


async def _read(answer: web.WebSocketResponse, options: Options, program: Program) -> bool:
    """What the client sends, until it goes; whether it said that it detaches."""
    async for message in answer:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], memoryview(message.data)[1:]
        if channel == channels.STDIN and options.has_input:
            await program.console.write(data)
        elif channel == channels.RESIZE:
            await program.console.resize(*channels.parse_resize(bytes(data)))
        elif channel == channels.CLOSE and options.has_input and data[:1] == bytes((channels.STDIN,)):
            await program.console.close_input()
        elif channel == channels.CONTROL:
            wanted = channels.parse_control(bytes(data))
            if wanted.is_detach:
                return True
            if wanted.signal is not None:
                await program.signal(wanted.signal)
    return False


async def _send(answer: web.WebSocketResponse, options: Options, program: Program) -> None:
    tail = 0 if options.cursor is None else None
    with contextlib.closing(watching.Watch(program.directory)) as watch:
        lines = logfiles.follow(program.directory, has_ended=program.has_ended, tail=tail, cursor=options.cursor, pause=watch.wait)
        async with contextlib.aclosing(lines):
            async for batch in lines:
                for line in batch:
                    await answer.send_bytes(channels.frame(_CHANNELS[line.stream], line.data))
    await answer.send_bytes(channels.frame(channels.STATUS, channels.render_status(program.exit_code())))
    await answer.close()


async def _fail(answer: web.WebSocketResponse, message: str, *, reason: str, code: int) -> None:
    with contextlib.suppress(ConnectionError):
        await answer.send_bytes(channels.frame(channels.STATUS, channels.render_failure(message, reason=reason, code=code)))
