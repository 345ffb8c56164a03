"""What a bandwidth means on the wire: rates, bursts, queues. Pure."""

from __future__ import annotations

from skerry_api.bandwidth import Bandwidth
from skerry_node.kernel.trafficcontrol import Rate
from skerry_node.model import Rates

_FRAME_BYTES, _CARRIED_BYTES = 1514, 1460
"""A full frame, and what it carries for a program that speaks TCP: a manifest counts what programs see."""
_MIN_BURST_BYTES, _BURST_SECONDS_DIVISOR = 16_384, 200
"""5 ms: what a timer that comes late may have to catch up with."""
_MIN_QUEUE_BYTES, _QUEUE_SECONDS_DIVISOR = 262_144, 20
"""50 ms, and four packets of the largest size that TCP gives to a link (64 KiB): with two, its first losses cost it 9 % of 1 Mbit/s."""


UNLIMITED = Rates()


def rates(wanted: Bandwidth) -> Rates:
    """What the kernel is told."""
    return Rates(_on_wire(wanted.ingress), _on_wire(wanted.egress))


def shape(bytes_per_second: int) -> Rate:
    """The bucket for a rate."""
    burst = max(_MIN_BURST_BYTES, bytes_per_second // _BURST_SECONDS_DIVISOR)
    queue = max(_MIN_QUEUE_BYTES, bytes_per_second // _QUEUE_SECONDS_DIVISOR)
    return Rate(bytes_per_second, burst, queue)


def _on_wire(bits: int | None) -> int | None:
    return None if bits is None else min(bits * _FRAME_BYTES // _CARRIED_BYTES // 8, 0xFFFFFFFF)
