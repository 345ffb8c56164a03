"""How fast a sandbox may receive and send: `spec.network.bandwidth`, from JSON to values and back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from skerry_api import fields, quantities
from skerry_api.errors import InvalidManifest
from skerry_api.fields import Raw

MIN_BITS, MAX_BITS = 64_000, 32_000_000_000
"""Below, a packet of full size waits a fifth of a second; above, a rate in bytes leaves 32 bits (struct tc_ratespec, linux/pkt_sched.h)."""
_RULE = "write bits per second from 64k to 32G, for example 10M"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bits per second that come into the sandbox, and that it sends; None is unlimited."""

    ingress: int | None = None
    egress: int | None = None


UNLIMITED = Bandwidth()


def parse_bandwidth(raw: Raw, *, is_bridged: bool) -> Bandwidth:
    """The Bandwidth of `spec.network`. Raises InvalidManifest."""
    path = "spec.network.bandwidth"
    found = fields.section(raw, "bandwidth", "spec.network")
    fields.refuse_unknown(found, path, frozenset({"ingress", "egress"}))
    if raw.get("bandwidth") is not None and not is_bridged:
        raise InvalidManifest(path, "write it only with mode: Bridge")
    return Bandwidth(ingress=_parse_bits(found, "ingress", path), egress=_parse_bits(found, "egress", path))


def render_bandwidth(value: Bandwidth) -> dict[str, str] | None:
    """As the manifest has it; None where it says nothing."""
    given = {"ingress": value.ingress, "egress": value.egress}
    return {name: render_bits(bits) for name, bits in given.items() if bits is not None} or None


def render_bits(bits: int) -> str:
    """The shortest exact form: `10M`, `64k`, `123456`."""
    for suffix, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if bits % scale == 0:
            return f"{bits // scale}{suffix}"
    return str(bits)


def _parse_bits(raw: Raw, key: str, path: str) -> int | None:
    bits = fields.quantity(raw, key, path, quantities.parse_memory_bytes)
    if bits is not None and not MIN_BITS <= bits <= MAX_BITS:
        raise InvalidManifest(f"{path}.{key}", _RULE)
    return bits
