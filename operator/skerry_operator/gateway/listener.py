"""A TLS port whose certificate and trust can be replaced: new connections meet the new ones, open ones live on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

_BACKLOG = 256
_HANDSHAKE_SECONDS = 10.0


class Listener:
    """Listens on *address* (`host:port`; no host: every address) once `serve` was called; *factory* makes the protocol of a connection."""

    def __init__(self, factory: web.Server, address: str) -> None:
        self._factory = factory
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    async def serve(self, context: ssl.SSLContext) -> None:
        """Take new connections with *context* from now on. Raises OSError."""
        if self._socket is None:
            self._socket = _bind(self._host, self._port)
        # Both have a copy of the one listening socket, so that no connection is refused in between.
        after = await asyncio.get_running_loop().create_server(
            self._factory, sock=self._socket.dup(), ssl=context, ssl_handshake_timeout=_HANDSHAKE_SECONDS, backlog=_BACKLOG
        )
        before, self._server = self._server, after
        if before is not None:
            before.close()  # stops listening; connections are left alone

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    try:
        made = socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG, dualstack_ipv6=not host)
    except ValueError:  # no IPv6 here
        made = socket.create_server((host, port), backlog=_BACKLOG)
    made.settimeout(0)
    return made
