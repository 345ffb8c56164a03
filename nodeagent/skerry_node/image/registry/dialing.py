"""Connections that lead where they may: the address that a name stands for is checked, and is the one that is dialed.

The check sits where the socket is made, so neither a literal, nor a redirect, nor a name that changes its mind between two look-ups passes by.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import aiohttp

from skerry_node.image.registry import addresses
from skerry_node.image.registry.errors import InvalidRegistryConfig
from skerry_node.image.registry.hosts import Tls

_CONNECTIONS, _READ_BYTES = 32, 1 << 20
_USER_AGENT = "skerry-agent"


class AddressClosed(OSError):
    """The address is one that images may not come from. All of them read the same, so that several of one name are told as one."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, "its address is this machine's, private, or a cloud's own")
        self.address = address


class Dialer:
    """Two pools of connections: to hosts that the operator named, and to all others. Must be used inside one event loop.

    *resolver* takes the place of the system's in tests.
    """

    def __init__(self, *, connect_seconds: float, resolver: aiohttp.abc.AbstractResolver | None = None) -> None:
        self._connect_seconds = connect_seconds
        self._resolver = resolver
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._contexts: dict[Tls, ssl.SSLContext] = {}

    def session(self, *, is_named: bool) -> aiohttp.ClientSession:
        """The pool to use for a host that is named by the operator, or not."""
        found = self._sessions.get(is_named)
        if found is None:
            found = self._sessions[is_named] = self._open(is_guarded=not is_named)
        return found

    def context(self, tls: Tls) -> ssl.SSLContext:
        """How to know a host. Raises InvalidRegistryConfig."""
        found = self._contexts.get(tls)
        if found is None:
            found = self._contexts[tls] = make_context(tls)
        return found

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _open(self, *, is_guarded: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=_CONNECTIONS,
            resolver=self._resolver,
            socket_factory=_guarded_socket if is_guarded else None,
            ttl_dns_cache=10,
        )
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BYTES,
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds, connect=None, sock_read=None),
        )


def make_context(tls: Tls) -> ssl.SSLContext:
    """A context for *tls*. Raises InvalidRegistryConfig."""
    context = ssl.create_default_context()
    try:
        for path in tls.ca_files:
            context.load_verify_locations(cafile=path)
        for certificate, key in tls.client:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRegistryConfig(f"certificates of {', '.join(tls.ca_files) or 'the client'} cannot be read: {error}") from error
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, proto, _, sockaddr = info
    if addresses.is_closed(str(sockaddr[0])):
        raise AddressClosed(str(sockaddr[0]))
    return socket.socket(family=family, type=kind, proto=proto)
