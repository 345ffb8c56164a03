"""What an answer from outside becomes for the sandbox that asked: its chain of names, its addresses, or a refusal. Pure.

Formats: RFC 1035, RFC 6891 (EDNS), RFC 8914 (extended errors).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from skerry_api.egress import Egress
from skerry_node.network import policy
from skerry_node.network.policy import Address, Ranges

MAX_LINKS = 8
"""Names in a chain of CNAMEs before it is taken for a loop."""
_REFUSED_TYPES = {dns.rdatatype.ANY, dns.rdatatype.AXFR, dns.rdatatype.IXFR}
_EMPTY_TYPES = {dns.rdatatype.SVCB, dns.rdatatype.HTTPS}
"""They carry addresses beside the answer, which nobody would let in; without them programs ask for A and AAAA."""
_ADDRESSES = {dns.rdatatype.A, dns.rdatatype.AAAA}


class Unanswerable(Exception):
    """The question gets no answer; *rcode* says so to the program, *code* (RFC 8914) and the message to a person."""

    def __init__(self, rcode: dns.rcode.Rcode, message: str, *, code: dns.edns.EDECode | None = None) -> None:
        super().__init__(message)
        self.rcode, self.code = rcode, code


@dataclass(frozen=True, slots=True)
class Question:
    """A name as text, in lower case and without a dot at its end, and a type."""

    name: str
    kind: dns.rdatatype.RdataType


@dataclass(frozen=True, slots=True)
class Answer:
    """Records to send, and the addresses among them with the seconds that they may be used."""

    records: tuple[dns.rrset.RRset, ...] = ()
    addresses: tuple[tuple[Address, int], ...] = ()


def read_question(query: dns.message.Message) -> Question:
    """What is asked. Raises Unanswerable."""
    if query.opcode() != dns.opcode.QUERY or query.flags & dns.flags.QR:
        raise Unanswerable(dns.rcode.NOTIMP, "only questions are answered")
    if len(query.question) != 1:
        raise Unanswerable(dns.rcode.FORMERR, "one question at a time")
    asked = query.question[0]
    if asked.rdclass != dns.rdataclass.IN or asked.rdtype in _REFUSED_TYPES:
        raise Unanswerable(dns.rcode.REFUSED, "this type is not answered")
    return Question(_to_text(asked.name), asked.rdtype)


def check(question: Question, wanted: Egress) -> None:
    """Raises Unanswerable when the policy closes the name."""
    if not policy.may_look_up(wanted, question.name):
        raise Unanswerable(dns.rcode.REFUSED, "spec.network.egress does not allow this name", code=dns.edns.EDECode.PROHIBITED)


def is_empty(question: Question) -> bool:
    """Whether there is nothing to ask for: the answer is empty whatever the world says."""
    return question.kind in _EMPTY_TYPES


def find_loose_end(question: Question, records: tuple[dns.rrset.RRset, ...]) -> dns.name.Name | None:
    """The name at which the chain of CNAMEs ends without an answer; None when there is nothing more to ask. Raises Unanswerable."""
    chain, final = _follow(question, records)
    return chain[-1] if final is None and len(chain) > 1 else None


def build(question: Question, records: tuple[dns.rrset.RRset, ...], wanted: Egress, ranges: Ranges) -> Answer:
    """What of *records* the sandbox gets. Raises Unanswerable when a name of the chain is closed, or all addresses are."""
    chain, final = _follow(question, records)
    for name in chain[1:]:
        if policy.is_denied(wanted, _to_text(name)):
            raise Unanswerable(dns.rcode.REFUSED, "spec.network.egress denies a name that this one leads to", code=dns.edns.EDECode.PROHIBITED)
    links = [rrset for name in chain for rrset in records if rrset.name == name and rrset.rdtype == dns.rdatatype.CNAME]
    if final is None:
        return Answer(records=tuple(links))
    if final.rdtype not in _ADDRESSES:
        return Answer(records=(*links, final) if final not in links else tuple(links))
    kept = [rdata for rdata in final if policy.may_answer(wanted, ranges, ipaddress.ip_address(rdata.address))]
    if not kept:
        raise Unanswerable(dns.rcode.REFUSED, "the name points into a closed range", code=dns.edns.EDECode.FILTERED)
    seconds = min(rrset.ttl for rrset in (*links, final))
    addresses = tuple((ipaddress.ip_address(rdata.address), seconds) for rdata in kept)
    return Answer(records=(*links, dns.rrset.from_rdata_list(final.name, final.ttl, kept)), addresses=addresses)


def render(query: dns.message.Message, *, answer: Answer = Answer(), rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> dns.message.Message:
    """The message to send back."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(rcode)
    response.answer = list(answer.records)
    return response


def render_refusal(query: dns.message.Message, problem: Unanswerable) -> dns.message.Message:
    """The same for what gets no answer, with the reason for who reads it."""
    response = render(query, rcode=problem.rcode)
    if query.edns >= 0 and problem.code is not None:
        response.use_edns(0, payload=1232, options=[dns.edns.EDEOption(problem.code, str(problem))])
    return response


def _follow(question: Question, records: tuple[dns.rrset.RRset, ...]) -> tuple[list[dns.name.Name], dns.rrset.RRset | None]:
    """The names from the one that was asked for along the CNAMEs, and the records of the wanted type at their end; all else is left."""
    chain = [dns.name.from_text(question.name)]
    while len(chain) <= MAX_LINKS:
        at_end = [rrset for rrset in records if rrset.name == chain[-1] and rrset.rdclass == dns.rdataclass.IN]
        final = next((rrset for rrset in at_end if rrset.rdtype == question.kind), None)
        link = next((rrset for rrset in at_end if rrset.rdtype == dns.rdatatype.CNAME), None)
        if final is not None or link is None:
            return chain, final
        chain.append(link[0].target)
    raise Unanswerable(dns.rcode.SERVFAIL, f"more than {MAX_LINKS} names lead to one another")


def _to_text(name: dns.name.Name) -> str:
    return name.canonicalize().to_text(omit_final_dot=True)
