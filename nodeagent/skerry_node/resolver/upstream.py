"""Asking the node's own nameservers: each in turn by UDP, by TCP where an answer does not fit, within a time."""

from __future__ import annotations

import ipaddress

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from skerry_node.resolver import answers

TRY_SECONDS, ROUNDS = 2.0, 2
_PORT = 53


class Upstream:
    """The nameservers *listed*, as settings have them: `address`, `address:port`, `[address]:port`."""

    def __init__(self, listed: tuple[str, ...]) -> None:
        self._servers = [parse_server(text) for text in listed]

    async def ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        """The first answer that says something. Raises answers.Unanswerable when there is none."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        for _ in range(ROUNDS):
            for address, port in self._servers:
                query.id = dns.message.make_query(name, kind).id  # a random one for each try; the source port is the kernel's choice
                try:
                    response, _ = await dns.asyncquery.udp_with_fallback(query, address, timeout=TRY_SECONDS, port=port, ignore_unexpected=True)
                except (dns.exception.DNSException, OSError, EOFError):
                    continue
                if response.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                    return response
        raise answers.Unanswerable(dns.rcode.SERVFAIL, "no nameserver of the node answers")

    async def resolve(self, question: answers.Question) -> tuple[dns.rcode.Rcode, tuple[dns.rrset.RRset, ...]]:
        """The code and the records for *question*, with what its CNAMEs lead to. Raises answers.Unanswerable."""
        response = await self.ask(dns.name.from_text(question.name), question.kind)
        records = tuple(response.answer)
        for _ in range(answers.MAX_LINKS):
            loose = answers.find_loose_end(question, records)
            if loose is None or response.rcode() != dns.rcode.NOERROR:
                break
            response = await self.ask(loose, question.kind)
            if not response.answer:
                break
            records += tuple(response.answer)
        return response.rcode(), records


def parse_server(text: str) -> tuple[str, int]:
    """Address and port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return str(ipaddress.ip_address(host)), int(port.removeprefix(":") or _PORT)
    if host and ":" not in host:
        return str(ipaddress.IPv4Address(host)), int(port)
    return str(ipaddress.ip_address(text)), _PORT
