"""What counts as idle, and what is remembered of it."""

from __future__ import annotations

import json
import struct

import pytest

from skerry_node import idling
from skerry_node.idling import Reading
from skerry_node.network import knocks, traffic


@pytest.mark.parametrize(
    ("before", "now", "seconds", "expected"),
    [
        pytest.param(Reading(1.0, 100), Reading(1.0, 100), 1.0, False, id="nothing moves"),
        pytest.param(Reading(1.0, 100), Reading(1.009, 100), 1.0, False, id="a trickle of CPU"),
        pytest.param(Reading(1.0, 100), Reading(1.02, 100), 1.0, True, id="more than a trickle"),
        pytest.param(Reading(1.0, 100), Reading(1.02, 100), 10.0, False, id="over a longer time it is one"),
        pytest.param(Reading(1.0, 100), Reading(1.0, 290), 1.0, False, id="neighbours' ARP"),
        pytest.param(Reading(1.0, 100), Reading(1.0, 700), 1.0, True, id="a connection"),
        pytest.param(Reading(1.0, 100), Reading(1.0, 290), 0.1, False, id="a short time is no reason"),
        pytest.param(Reading(9.0, 9000), Reading(0.0, 50), 1.0, False, id="counters that began anew"),
    ],
)
def test_a_trickle_is_idle(before, now, seconds, expected):
    """By CPU and by bytes, over the time between two looks."""
    assert idling.is_active(before, now, seconds=seconds) is expected


def test_idle_time_begins_with_the_program_and_again_with_each_activity():
    """The first look counts from the start; a new start is a new count; a visit counts by itself."""
    table = idling.Table()
    assert not table.take("u", 0, Reading(), now=10.0, started=7.0, is_busy=False)
    assert table.active_at("u", 0) == 7.0
    assert table.take("u", 0, Reading(1.0), now=11.0, started=7.0, is_busy=False)
    assert not table.take("u", 0, Reading(1.0), now=12.0, started=7.0, is_busy=False)
    assert (table.active_at("u", 0), table.active_at("u", 1), table.active_at("v", 0)) == (11.0, None, None)
    assert table.take("u", 0, Reading(1.0), now=13.0, started=7.0, is_busy=True)
    table.note("u", now=14.0)
    assert table.active_at("u", 0) == 14.0
    table.take("u", 1, Reading(), now=20.0, started=19.0, is_busy=False)
    assert table.active_at("u", 1) == 19.0
    table.retain(())
    assert table.entries == {}


def test_the_next_agent_of_the_same_boot_counts_on():
    """What is written is read back; another boot's is nothing."""
    table = idling.Table()
    table.take("u", 2, Reading(1.5, 7), now=10.0, started=7.0, is_busy=False)
    raw = json.loads(json.dumps(idling.render(table, boot_id="b")))
    assert idling.parse(raw, boot_id="b") == table
    assert idling.parse(raw, boot_id="c") == idling.Table()


def test_all_links_are_read_from_one_file(tmp_path):
    """Received and sent together; a name may touch its first count."""
    path = tmp_path / "dev"
    path.write_text("Inter-|\n face |bytes\n    lo:     5 0 0 0 0 0 0 0  6 0 0 0 0 0 0 0\nskab-12:1000 9 0 0 0 0 0 0 24 3 0 0 0 0 0 0\n")
    assert traffic.read_moved(path=str(path)) == {"lo": 11, "skab-12": 1024}
    assert traffic.read_all(path=str(path))["skab-12"] == traffic.Traffic(
        received_bytes=24, received_packets=3, received_dropped=0, sent_bytes=1000, sent_packets=9, sent_dropped=0
    )


def _message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = bytes(4) + b"".join(struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4) for number, value in attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_logged_packet_names_its_link():
    """The bridge's port where it is told, else the link itself; other messages and broken ones name none."""
    port, bridge, packet = (7, (9).to_bytes(4, "big")), (5, (3).to_bytes(4, "big")), 4 << 8
    assert list(knocks.parse(_message(packet, bridge, (1, b"xyz"), port) + _message(packet, bridge) + _message(packet))) == [9, 3]
    assert list(knocks.parse(_message(2, port))) == []
    assert list(knocks.parse(b"\x01\x00\x00\x00" + bytes(40))) == []
    assert list(knocks.parse(_message(packet, port)[:-2])) == []
