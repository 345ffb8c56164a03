"""What a bandwidth means on the wire, and how it is written."""

from __future__ import annotations

import dataclasses

import pytest

from skerry_api.bandwidth import MAX_BITS, MIN_BITS, Bandwidth, parse_bandwidth, render_bandwidth
from skerry_node.kernel import bpf
from skerry_node.model import Rates
from skerry_node.network import rates


@pytest.mark.parametrize(
    ("raw", "bandwidth", "expected"),
    [
        pytest.param({}, Bandwidth(), Rates(), id="nothing is unlimited"),
        pytest.param({"ingress": "10M"}, Bandwidth(ingress=10_000_000), Rates(ingress=1_296_232), id="into it"),
        pytest.param({"egress": "64k"}, Bandwidth(egress=64_000), Rates(egress=8_295), id="the least"),
        pytest.param({"egress": 123_456}, Bandwidth(egress=123_456), Rates(egress=16_002), id="a number"),
    ],
)
def test_a_bandwidth_is_read_and_told_to_the_kernel(raw, bandwidth, expected):
    """Bits that programs see become bytes on the wire; what is rendered reads the same."""
    found = parse_bandwidth({"bandwidth": raw}, is_bridged=True)
    assert found == bandwidth
    assert rates.rates(found) == expected
    assert parse_bandwidth({"bandwidth": render_bandwidth(found)}, is_bridged=True) == bandwidth


@pytest.mark.parametrize("bits", [MIN_BITS, 1_000_000, 1_000_000_000, MAX_BITS])
def test_every_rate_fits_the_kernels_numbers(bits):
    """32 bits each; a bucket lets a full packet through, and a queue holds the largest that TCP makes."""
    wanted = rates.rates(Bandwidth(ingress=bits)).ingress
    assert wanted is not None
    shape = rates.shape(wanted)
    assert all(0 < number < 1 << 32 for number in dataclasses.astuple(shape))
    assert shape.burst_bytes >= 1514
    assert shape.queue_bytes >= 2 * 65_536
    assert shape.burst_bytes * 1_000_000_000 // shape.bytes_per_second // 64 < 1 << 32


def test_the_program_is_whole_instructions():
    """Eight bytes each, the last one the exit."""
    program = bpf.render_redirect(link_index=7, priority=1 << 16 | 9)
    assert len(program) % 8 == 0
    assert program[-8] == 0x95
