"""Bytes that a thread makes: all of them, at the reader's pace, or a break that the client notices."""

import asyncio
import threading

import aiohttp
import pytest
from aiohttp import web

from skerry_node.serving import outflow


class Door:
    """A server whose one route answers with what *make* writes."""

    def __init__(self, make) -> None:
        self._make = make

    async def __aenter__(self) -> aiohttp.ClientSession:
        application = web.Application()
        application.router.add_get("/", self._answer)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.session = aiohttp.ClientSession(f"http://127.0.0.1:{self._runner.addresses[0][1]}")
        return self.session

    async def _answer(self, request):
        return await outflow.respond(request, self._make)

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self._runner.cleanup()


@pytest.mark.parametrize("pieces", [[], [b"x"], [b"a" * 512] * 10_000, [b"b" * (3 << 20), b"c"]], ids=["none", "one", "many", "large"])
async def test_all_of_it_comes(pieces):
    """In order, whatever the pieces are."""

    def make(out):
        for piece in pieces:
            out.write(piece)

    async with Door(make) as session, session.get("/") as response:
        assert response.status == 200
        assert await response.read() == b"".join(pieces)


async def test_an_error_before_the_first_piece_is_the_answer():
    """What was held back is not sent."""

    def make(out):
        out.write(b"held back")
        raise web.HTTPConflict(text="no")

    async with Door(make) as session, session.get("/") as response:
        assert (response.status, await response.text()) == (409, "no")


async def test_an_error_in_the_middle_breaks_the_answer(caplog):
    """The client must not take half an archive for a whole one."""

    def make(out):
        out.write(bytes(3 << 20))
        raise OSError("the disk went away")

    async with Door(make) as session, session.get("/") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert "broke off" in caplog.text


async def test_a_client_that_goes_ends_the_making():
    """The thread learns of it at its next piece, and nothing waits for ever."""
    ended = threading.Event()

    def make(out):
        try:
            while True:
                out.write(bytes(1 << 20))
        except outflow.ReaderGone:
            ended.set()
            raise

    async with Door(make) as session:
        async with session.get("/") as response:
            assert len(await response.content.readexactly(1 << 20)) == 1 << 20
            response.close()
        assert await asyncio.to_thread(ended.wait, 10)
