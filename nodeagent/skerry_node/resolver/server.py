"""The resolver's door: UDP and TCP on the bridge's addresses. Everything that comes in is hostile, and bounded by number, size and time.

Who asks is known by the source address, which the rules pin to the port. Addresses are let in before the answer leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import dns.exception
import dns.message
import dns.name
import dns.rcode

from skerry_api.egress import Egress, EgressPort
from skerry_node.network import policy
from skerry_node.network.policy import Address, Ranges
from skerry_node.resolver import answers, upstream

MAX_PER_SANDBOX, MAX_CONNECTIONS, MAX_ALL = 64, 8, 1024
"""Questions under way and connections of one sandbox; questions of all."""
IDLE_SECONDS = 5.0
PORT = 53
_RETRY_SECONDS = 5.0
_MIN_UDP_BYTES, _MAX_UDP_BYTES = 512, 1232
_LENGTH = struct.Struct(">H")
_LOG = logging.getLogger("skerry.resolver")
Admit = Callable[[int, str, Mapping[Address, int], tuple[EgressPort, ...]], None]


@dataclass(frozen=True, slots=True)
class Guest:
    """Who asks: the slot, and the policy that is in force for it."""

    slot: int
    egress: Egress


class Resolver:
    """Answers sandboxes on *addresses* until cancelled. *find_guest* knows who has an address; *admit* opens what was answered, or raises OSError."""

    def __init__(
        self,
        addresses: Iterable[Address],
        *,
        nameservers: tuple[str, ...],
        ranges: Ranges,
        find_guest: Callable[[Address], Guest | None],
        admit: Admit,
        port: int = PORT,
    ) -> None:
        self._addresses, self._ranges, self._port = tuple(addresses), ranges, port
        self._find_guest, self._admit = find_guest, admit
        self._upstream = upstream.Upstream(nameservers)
        self._busy: Counter[int] = Counter()
        self._connections: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen for ever; an address that is taken is tried again."""
        async with asyncio.TaskGroup() as tasks:
            for address in self._addresses:
                tasks.create_task(self._listen(str(address)))

    async def answer(self, wire: bytes, source: str, *, over_tcp: bool) -> bytes | None:
        """The answer to one message from *source*; None when it deserves none."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return None
        guest = self._find_guest(ipaddress.ip_address(source))
        if guest is None or self._busy[guest.slot] >= MAX_PER_SANDBOX or self._busy.total() >= MAX_ALL:
            response = answers.render(query, rcode=dns.rcode.SERVFAIL)
        else:
            self._busy[guest.slot] += 1
            try:
                response = await self._resolve(query, guest)
            except answers.Unanswerable as problem:
                response = answers.render_refusal(query, problem)
            finally:
                self._busy[guest.slot] -= 1
                self._busy += Counter()  # forgets who has none under way
        return _to_wire(query, response, over_tcp=over_tcp)

    async def _resolve(self, query: dns.message.Message, guest: Guest) -> dns.message.Message:
        question = answers.read_question(query)
        answers.check(question, guest.egress)
        if answers.is_empty(question):
            return answers.render(query)
        rcode, records = await self._upstream.resolve(question)
        answer = answers.build(question, records, guest.egress, self._ranges)
        if answer.addresses and policy.needs_admission(guest.egress):
            self._let_in(guest, question.name, dict(answer.addresses))
        return answers.render(query, answer=answer, rcode=rcode)

    def _let_in(self, guest: Guest, name: str, addresses: dict[Address, int]) -> None:
        ports = policy.opened_by(guest.egress, name)
        if ports is None:
            return
        try:
            self._admit(guest.slot, name, addresses, ports)
        except OSError as error:
            _LOG.warning("addresses not admitted slot=%s name=%s problem=%s", guest.slot, name, error)
            raise answers.Unanswerable(dns.rcode.SERVFAIL, "the node admits no more addresses for now") from error

    async def _listen(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(address, self._port))
                try:
                    server = await asyncio.start_server(self._serve, address, self._port)
                    async with server:
                        await server.serve_forever()
                finally:
                    transport.close()
            except OSError as error:
                _LOG.error("resolver cannot listen address=%s port=%s problem=%s; names do not resolve in sandboxes", address, self._port, error)
                await asyncio.sleep(_RETRY_SECONDS)

    def spawn(self, wire: bytes, source: tuple[Any, ...], transport: asyncio.DatagramTransport) -> None:
        """Answer one datagram beside everything else."""
        if len(self._tasks) >= MAX_ALL:
            return
        task = asyncio.get_running_loop().create_task(self._reply(wire, source, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, wire: bytes, source: tuple[Any, ...], transport: asyncio.DatagramTransport) -> None:
        response = await self.answer(wire, source[0], over_tcp=False)
        if response is not None and not transport.is_closing():
            transport.sendto(response, source)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[0]
        guest = self._find_guest(ipaddress.ip_address(source))
        slot = guest.slot if guest is not None else -1
        try:
            if guest is None or self._connections[slot] >= MAX_CONNECTIONS:
                return
            self._connections[slot] += 1
            try:
                with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
                    await self._converse(reader, writer, source)
            finally:
                self._connections[slot] -= 1
                self._connections += Counter()
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                size = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
                wire = await reader.readexactly(size)
            response = await self.answer(wire, source, over_tcp=True)
            if response is None:
                return
            writer.write(_LENGTH.pack(len(response)) + response)
            async with asyncio.timeout(IDLE_SECONDS):
                await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # Python 3.11's own is no subclass of it

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._transport is not None:
            self._resolver.spawn(data, addr, self._transport)


def _to_wire(query: dns.message.Message, response: dns.message.Message, *, over_tcp: bool) -> bytes:
    """The bytes to send: by UDP what does not fit says so, and is asked for again by TCP."""
    if over_tcp:
        return response.to_wire(max_size=65_535)
    limit = min(max(query.payload, _MIN_UDP_BYTES), _MAX_UDP_BYTES) if query.edns >= 0 else _MIN_UDP_BYTES
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        short = answers.render(query, rcode=response.rcode())
        short.flags |= dns.flags.TC
        return short.to_wire(max_size=limit)
