"""The door for Prometheus and probes: /metrics, /healthz and /readyz over plain HTTP on an address of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web


@dataclass(slots=True)
class Door:
    """An open door; `url` says where."""

    url: str
    _runner: web.AppRunner

    async def close(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()


async def start(
    address: str, render: Callable[[], bytes], *, stale_seconds: Callable[[], float], is_ready: Callable[[], bool], max_stale_seconds: float
) -> Door:
    """Serve on *address* (`host:port`; port 0 takes a free one). Raises OSError.

    An agent that has observed nothing for *max_stale_seconds* hangs, and is neither healthy nor ready.
    """
    under_way: asyncio.Task[bytes] | None = None

    async def metrics(_: web.Request) -> web.Response:
        nonlocal under_way
        if under_way is None or under_way.done():  # who asks meanwhile gets the same answer: any number of readers cost as one
            under_way = asyncio.create_task(asyncio.to_thread(render))  # 1,000 sandboxes take a while to read; a launch must not wait for it
        body = await asyncio.shield(under_way)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthy(_: web.Request) -> web.Response:
        seconds = stale_seconds()
        if seconds > max_stale_seconds:
            return web.Response(status=503, text=f"nothing was observed for {seconds:.0f} s\n")
        return web.Response(text="ok\n")

    async def ready(request: web.Request) -> web.Response:
        if not is_ready():
            return web.Response(status=503, text="no keeper yet, or no complete list of sandboxes\n")
        return await healthy(request)

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthy), web.get("/readyz", ready)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    host, _, port = address.rpartition(":")
    await web.TCPSite(runner, host or "127.0.0.1", int(port)).start()
    bound = runner.addresses[0]
    return Door(url=f"http://{bound[0]}:{bound[1]}/metrics", _runner=runner)
