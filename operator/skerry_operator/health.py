"""What probes ask a replica of the operator: does its event loop turn, and does it hear the API server."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


async def serve(port: int, *, silence_seconds: Callable[[], float], limit_seconds: float) -> web.AppRunner:
    """Answer /healthz and /readyz on *port* of every address until the runner's `cleanup`. Raises OSError.

    A replica that waits for the Lease is as ready as the one that holds it: it hears the API server. One that does not for *limit_seconds* is
    not ready; it is not killed for it, since another process would hear no more.
    """

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        seconds = silence_seconds()
        if seconds > limit_seconds:
            return web.Response(status=503, text=f"the API server was last heard {seconds:.0f} s ago\n")
        return web.Response(text="ok\n")

    application = web.Application()
    application.add_routes([web.get("/healthz", healthy), web.get("/readyz", ready)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
