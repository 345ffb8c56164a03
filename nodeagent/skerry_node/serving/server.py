"""The agent's HTTP door: a unix socket that only root may open."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from aiohttp import web

from skerry_node.serving import routes
from skerry_node.serving.backend import Backend
from skerry_node.serving.building import Builder
from skerry_node.serving.images import Carrier

_BACKLOG = 128


class Server:
    """Serves until closed. Make it with `start`."""

    def __init__(self, runner: web.AppRunner, *, path: str, inode: int) -> None:
        self._runner = runner
        self._path = path
        self._inode = inode

    async def close(self) -> None:
        """End every request and remove the socket, unless a newer agent has put its own there."""
        await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)


async def start(
    backend: Backend, *, path: str, metrics: Callable[[], bytes] | None = None, carrier: Carrier | None = None, builder: Builder | None = None
) -> Server:
    """Listen at *path*, mode 0600, in place of whatever socket a dead agent left there.

    *metrics* renders the text that Prometheus reads. Raises OSError. A request ends with its client: a reader of logs
    that goes away leaves nothing behind.
    """
    runner = web.AppRunner(
        routes.make_application(backend, metrics=metrics, carrier=carrier, builder=builder),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=1,
    )
    await runner.setup()
    try:
        listener = _listen(path)
        inode = os.stat(path).st_ino
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
    except BaseException:
        await runner.cleanup()
        raise
    return Server(runner, path=path, inode=inode)


def _listen(path: str) -> socket.socket:
    """A listening socket at *path*; it appears there complete, so no client meets one with other modes."""
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        old = os.umask(0o177)
        try:
            listener.bind(temporary)
        finally:
            os.umask(old)
        listener.listen(_BACKLOG)
        os.rename(temporary, path)
    except BaseException:
        listener.close()
        raise
    return listener
