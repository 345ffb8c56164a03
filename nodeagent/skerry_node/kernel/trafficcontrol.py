"""Queueing disciplines as messages of rtnetlink: what is made, changed, removed, and read back. Pure.

Layouts: linux/rtnetlink.h (struct tcmsg), linux/pkt_sched.h, linux/pkt_cls.h. Rates are bytes per second on the wire, each below 2**32.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from skerry_node.kernel import netlink

_NEWQDISC, _DELQDISC, _GETQDISC, _NEWCLASS, _DELCLASS, _GETCLASS, _NEWFILTER = 36, 37, 38, 40, 41, 42, 44
_TCMSG = struct.Struct("=BxxxiIII")
_KIND, _OPTIONS, _STATS2, _STATS_QUEUE = 1, 2, 7, 3
_RATE = struct.Struct("=BBHhHI")
"""struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate."""
_ETHERNET = 1
"""TC_LINKLAYER_ETHERNET: the kernel reckons itself and wants no table of sizes."""
_TBF_PARMS, _TBF_BURST, _TBF_NUMBERS = 1, 6, struct.Struct("=III")
_HTB_PARMS, _HTB_INIT, _HTB_NUMBERS, _HTB_GLOBAL = 1, 2, struct.Struct("=IIIII"), struct.Struct("=IIIII")
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_DIRECT = 6, 7, 8, 1
_QUEUE = struct.Struct("=IIIII")
"""struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits."""
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_HANDLE = 1 << 16
_TICK_NS = 64
"""PSCHED_TICKS2NS, net/pkt_sched.h."""
_QUANTUM_BYTES = 60_000
_REPLACE = netlink.CREATE | netlink.REPLACE


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate in bytes per second, what may pass at once, and what may wait; bytes on the wire."""

    bytes_per_second: int
    burst_bytes: int
    queue_bytes: int


@dataclass(frozen=True, slots=True)
class Qdisc:
    """One that the kernel has: where, of which kind, its rate if it is a token bucket, and how many packets it dropped."""

    link_index: int
    kind: str
    parent: int
    bytes_per_second: int | None
    dropped: int


@dataclass(frozen=True, slots=True)
class Class:
    """A class of a hierarchical token bucket: the number below its parent, its rate."""

    minor: int
    bytes_per_second: int


def class_id(minor: int) -> int:
    """As a packet's priority names the class."""
    return _HANDLE | minor


def token_bucket(link_index: int, rate: Rate) -> netlink.Message:
    """A token bucket before everything that leaves by the link; one that is there changes its numbers."""
    numbers = _ratespec(rate.bytes_per_second) + _ratespec(0) + _TBF_NUMBERS.pack(rate.queue_bytes, 0, 0)
    options = netlink.attribute(_TBF_PARMS, numbers) + netlink.number(_TBF_BURST, rate.burst_bytes)
    return _make(_NEWQDISC, _REPLACE, _TCMSG.pack(0, link_index, _HANDLE, _ROOT, 0), "tbf", options)


def no_token_bucket(link_index: int) -> netlink.Message:
    """Whatever is at the link's root goes. ENOENT when nothing is."""
    return netlink.Message(_DELQDISC, 0, _TCMSG.pack(0, link_index, 0, _ROOT, 0), "remove the qdisc of a link")


def hierarchy(link_index: int) -> netlink.Message:
    """A hierarchical token bucket without classes; EEXIST when there is one. What no class takes passes."""
    options = netlink.attribute(_HTB_INIT, _HTB_GLOBAL.pack(3, 10, 0, 0, 0))
    return _make(_NEWQDISC, netlink.CREATE | netlink.EXCL, _TCMSG.pack(0, link_index, _HANDLE, _ROOT, 0), "htb", options)


def bucket_class(link_index: int, minor: int, rate: Rate) -> list[netlink.Message]:
    """A class of the hierarchy and its queue; those that are there change their numbers."""
    ticks = rate.burst_bytes * 1_000_000_000 // rate.bytes_per_second // _TICK_NS
    spec = _ratespec(rate.bytes_per_second)
    options = netlink.attribute(_HTB_PARMS, spec + spec + _HTB_NUMBERS.pack(ticks, ticks, _QUANTUM_BYTES, 0, 0))
    return [
        _make(_NEWCLASS, _REPLACE, _TCMSG.pack(0, link_index, _HANDLE | minor, _HANDLE, 0), "htb", options),
        _make(_NEWQDISC, _REPLACE, _TCMSG.pack(0, link_index, 0, _HANDLE | minor, 0), "bfifo", struct.pack("=I", rate.queue_bytes)),
    ]


def no_bucket_class(link_index: int, minor: int) -> netlink.Message:
    """The class goes, with what waits in it. ENOENT when it is not there."""
    return netlink.Message(_DELCLASS, 0, _TCMSG.pack(0, link_index, _HANDLE | minor, _HANDLE, 0), f"remove class {minor}")


def arrivals(link_index: int, program_fd: int) -> list[netlink.Message]:
    """What arrives on the link goes through the BPF program; EEXIST when the link has a place for filters already."""
    options = netlink.number(_BPF_FD, program_fd) + netlink.text(_BPF_NAME, "skerry") + netlink.number(_BPF_FLAGS, _BPF_DIRECT)
    every = 1 << 16 | socket.htons(3)  # the first filter, for all protocols: ETH_P_ALL
    return [
        _make(_NEWQDISC, netlink.CREATE | netlink.EXCL, _TCMSG.pack(0, link_index, _INGRESS_HANDLE, _INGRESS, 0), "ingress", None),
        _make(_NEWFILTER, netlink.CREATE | netlink.EXCL, _TCMSG.pack(0, link_index, 1, _INGRESS_HANDLE, every), "bpf", options),
    ]


def no_arrivals(link_index: int) -> netlink.Message:
    """No filter sees what arrives. ENOENT or EINVAL when none does."""
    return netlink.Message(_DELQDISC, 0, _TCMSG.pack(0, link_index, _INGRESS_HANDLE, _INGRESS, 0), "remove the filters of a link")


def list_qdiscs() -> netlink.Message:
    """All of the network namespace."""
    return netlink.Message(_GETQDISC, 0, _TCMSG.pack(0, 0, 0, 0, 0), "list queueing disciplines")


def list_classes(link_index: int) -> netlink.Message:
    """All of one link."""
    return netlink.Message(_GETCLASS, 0, _TCMSG.pack(0, link_index, 0, 0, 0), "list classes")


def parse_qdisc(body: bytes) -> Qdisc:
    """One entry of the list."""
    _, index, _, parent, _ = _TCMSG.unpack_from(body)
    found = netlink.parse_attributes(body, _TCMSG.size)
    kind = found[_KIND].rstrip(b"\x00").decode("ascii", "replace")
    parms = netlink.parse_attributes(found.get(_OPTIONS, b"")).get(_TBF_PARMS) if kind == "tbf" else None
    queue = netlink.parse_attributes(found.get(_STATS2, b"")).get(_STATS_QUEUE)
    dropped = _QUEUE.unpack_from(queue)[2] if queue is not None else 0
    return Qdisc(index, kind, parent, _RATE.unpack_from(parms)[5] if parms is not None else None, dropped)


def parse_class(body: bytes) -> Class | None:
    """One entry of the list; None when it is of another kind."""
    _, _, handle, _, _ = _TCMSG.unpack_from(body)
    found = netlink.parse_attributes(body, _TCMSG.size)
    if found[_KIND] != b"htb\x00":
        return None
    parms = netlink.parse_attributes(found.get(_OPTIONS, b"")).get(_HTB_PARMS)
    return Class(handle & 0xFFFF, _RATE.unpack_from(parms)[5]) if parms is not None else None


def _make(kind: int, flags: int, where: bytes, name: str, options: bytes | None) -> netlink.Message:
    body = where + netlink.text(_KIND, name) + (netlink.attribute(_OPTIONS, options) if options is not None else b"")
    return netlink.Message(kind, flags, body, f"make {name}")


def _ratespec(bytes_per_second: int) -> bytes:
    return _RATE.pack(0, _ETHERNET, 0, 0, 0, bytes_per_second)
