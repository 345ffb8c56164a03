"""A program that serves pages in the network namespace of a sandbox: it tells what it was asked, redirects, sets cookies, echoes WebSockets.

Run as a program with a port; says `up` when it listens on loopback.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from aiohttp import web

from tests.harness import talk


@contextlib.contextmanager
def serving(pid: int, port: int) -> Iterator[None]:
    """Serve on *port* in the network namespace of *pid*."""
    process = subprocess.Popen([*talk.enter(pid), sys.executable, "-m", "tests.harness.pages", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _tell(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await _echo(request)
    if request.path == "/away":
        return web.Response(status=302, headers={"Location": "/there?x=1", "Set-Cookie": "a=b"})
    body = await request.read()
    told = {"method": request.method, "target": request.raw_path, "headers": dict(request.headers), "bytes": len(body)}
    return web.json_response(told, headers={"Set-Cookie": "a=b", "X-Own": "1"})


async def _echo(request: web.Request) -> web.WebSocketResponse:
    answer = web.WebSocketResponse(protocols=["chat"])
    await answer.prepare(request)
    async for message in answer:
        await answer.send_str(f"echo {message.data}")
    return answer


def main() -> None:
    """Serve for ever."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{rest:.*}", _tell)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=lambda *_: print("up", flush=True))


if __name__ == "__main__":
    main()
