"""The bandwidth of sandboxes: a token bucket before each link for what comes in, and for what goes out a class of one ifb that all share.

What a sandbox sends arrives at the host's end of its link, where nothing can wait; a BPF classifier notes the sandbox's class in each packet and
sends it by the ifb, whose hierarchical token bucket lets it go on its way at the class's rate (docs/adr/0023). One ifb for all, because making
and removing links is slow. A sandbox without a limit has none of this, and the ifb is made for the first that has one.

The kernel is the database: this keeps a copy, is the only writer, and reads everything anew when it starts and at each `refresh`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from skerry_node.kernel import bpf, netlink, trafficcontrol
from skerry_node.model import Rates
from skerry_node.network import rates

_IFINFO = struct.Struct("=BxHiII")
_NEWLINK, _DELLINK, _UP = 16, 17, 1
_IFNAME, _LINKINFO, _INFO_KIND = 3, 18, 1
_GONE = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})
"""What the kernel says when there is nothing to remove: ENOENT, and EINVAL where even the place for it is lacking."""


class Shaper:
    """Holds each slot to its rates. *link_name* is the host's end of a slot's link. Not for several threads at once. Errors are OSError."""

    def __init__(self, ifb: str, *, link_name: Callable[[int], str]) -> None:
        self._ifb, self._link_name = ifb, link_name
        self._kernel = netlink.Netlink()
        self._held: dict[int, Rates] = {}

    def close(self) -> None:
        """Let go of the socket; the limits stay."""
        self._kernel.close()

    def find(self, slot: int) -> Rates:
        """What the slot is held to."""
        return self._held.get(slot, rates.UNLIMITED)

    def ensure(self, slot: int, wanted: Rates, *, is_new: bool = False) -> None:
        """Hold the slot to *wanted* from now on. Its link is there: ENODEV. *is_new*: it has been made since, and holds nothing yet."""
        if is_new:
            self.forget(slot)
        held = self.find(slot)
        if held == wanted:
            return
        index = _find_index(self._link_name(slot))
        self._held.pop(slot, None)  # unknown, should the kernel refuse half of it; the next refresh tells
        if wanted.ingress != held.ingress:
            self._limit_ingress(index, wanted.ingress)
        if wanted.egress != held.egress:
            self._limit_egress(slot, index, wanted.egress)
        if wanted != rates.UNLIMITED:
            self._held[slot] = wanted

    def forget(self, slot: int) -> None:
        """The slot is free, its link gone or about to go, with all that hangs on it; only the class of the ifb is left to remove."""
        held = self._held.pop(slot, None)
        if held is not None and held.egress is not None:
            with _tolerating(*_GONE):
                self._kernel.ask(trafficcontrol.no_bucket_class(_find_index(self._ifb), slot))

    def refresh(self, slots: Iterable[int]) -> None:
        """Read what the kernel holds of *slots*, all that are in use; a class that is no slot's goes."""
        found = [trafficcontrol.parse_qdisc(body) for body in self._kernel.dump(trafficcontrol.list_qdiscs())]
        buckets = {each.link_index: each.bytes_per_second for each in found if each.kind == "tbf"}
        filtered = {each.link_index for each in found if each.kind == "ingress"}
        classes = self._read_classes()
        held = {}
        for slot in slots if buckets or filtered or classes else ():
            with contextlib.suppress(OSError):  # no link
                index = _find_index(self._link_name(slot))
                held[slot] = Rates(buckets.get(index), classes.get(slot) if index in filtered else None)
        self._held = {slot: each for slot, each in held.items() if each != rates.UNLIMITED}
        for slot in classes.keys() - held.keys():
            with _tolerating(*_GONE):
                self._kernel.ask(trafficcontrol.no_bucket_class(_find_index(self._ifb), slot))

    def _read_classes(self) -> dict[int, int]:
        try:
            index = _find_index(self._ifb)
        except OSError:
            return {}
        parsed = [trafficcontrol.parse_class(body) for body in self._kernel.dump(trafficcontrol.list_classes(index))]
        return {each.minor: each.bytes_per_second for each in parsed if each is not None}

    def _limit_ingress(self, index: int, rate: int | None) -> None:
        if rate is not None:
            self._kernel.ask(trafficcontrol.token_bucket(index, rates.shape(rate)))
            return
        with _tolerating(*_GONE):
            self._kernel.ask(trafficcontrol.no_token_bucket(index))

    def _limit_egress(self, slot: int, index: int, rate: int | None) -> None:
        """The class comes before the filter and goes after it: a packet without a class would pass unlimited."""
        if rate is not None:
            ifb_index = self._ensure_ifb()
            self._kernel.ask(*trafficcontrol.bucket_class(ifb_index, slot, rates.shape(rate)))
            program_fd = bpf.load_classifier(bpf.render_redirect(link_index=ifb_index, priority=trafficcontrol.class_id(slot)))
            try:
                with _tolerating(errno.EEXIST):
                    self._kernel.ask(*trafficcontrol.arrivals(index, program_fd))
            finally:
                os.close(program_fd)
            return
        with _tolerating(*_GONE):
            self._kernel.ask(trafficcontrol.no_arrivals(index))
        with _tolerating(*_GONE):
            self._kernel.ask(trafficcontrol.no_bucket_class(_find_index(self._ifb), slot))

    def _ensure_ifb(self) -> int:
        with contextlib.suppress(OSError):
            return _find_index(self._ifb)
        body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.text(_IFNAME, self._ifb) + netlink.nested(_LINKINFO, netlink.text(_INFO_KIND, "ifb"))
        self._kernel.ask(netlink.Message(_NEWLINK, netlink.CREATE | netlink.EXCL, body, f"create link {self._ifb}"))
        index = _find_index(self._ifb)
        self._kernel.ask(trafficcontrol.hierarchy(index), netlink.Message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, _UP, _UP), f"bring up {self._ifb}"))
        return index


def remove_ifb(name: str) -> None:
    """Remove the link that all share; one that is gone is fine."""
    with netlink.Netlink() as rtnl, _tolerating(errno.ENODEV):
        rtnl.ask(netlink.Message(_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + netlink.text(_IFNAME, name), f"remove link {name}"))


def _find_index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # it comes without a number
        raise OSError(errno.ENODEV, f"link {name}: {os.strerror(errno.ENODEV)}") from error


@contextlib.contextmanager
def _tolerating(*numbers: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
