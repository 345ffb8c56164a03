"""What is read on request only, from plain files that have what the kernel writes. The real ones: tests/kernel/test_usage.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry_api.sandbox import parse_sandbox
from skerry_node import usage
from skerry_node.cgroup import details, group, hierarchy, stats
from skerry_node.network import traffic

V2 = {
    "cpu.max": "max 100000\n",
    "memory.max": "65536\n",
    "pids.max": "max\n",
    "memory.stat": "anon 1\nfile 6000\ninactive_file 4000\n",
    "memory.swap.current": "512\n",
    "io.stat": "8:0 rbytes=100 wbytes=20 rios=3 wios=2 dbytes=0 dios=0\n8:16\n254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.25 avg300=0.01 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
}


@pytest.fixture
def found(tmp_path: Path) -> group.Group:
    for name, text in V2.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    return group.Group(dict.fromkeys(hierarchy.CONTROLLERS, str(tmp_path)), 2)


def test_devices_are_summed_and_pressure_is_by_resource(found: group.Group):
    """A device without figures is nothing; a resource without pressure is left out."""
    read = details.read_details(found)
    assert (read.cache_bytes, read.swap_bytes, read.limit_bytes) == (6000, 512, 65_536)
    assert read.transfers == details.Transfers(read_bytes=101, write_bytes=22, reads=6, writes=6)
    none = details.Stall(0.0, 0.0, 0.0, 0.0)
    assert read.pressure == {
        "cpu": {"some": details.Stall(1.5, 0.25, 0.01, 2.5), "full": none},
        "memory": {"some": details.Stall(0.0, 0.0, 0.0, 7e-6)},
    }


def test_what_a_kernel_does_not_count_is_none(found: group.Group, tmp_path: Path):
    """Without swap accounting, io controller and PSI, and without a limit."""
    for name in ("memory.swap.current", "io.stat", "cpu.pressure", "memory.pressure"):
        (tmp_path / name).unlink()
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert details.read_details(found) == details.Details(cache_bytes=6000, swap_bytes=None, limit_bytes=None)


def test_a_vanished_group_is_an_error(tmp_path: Path):
    """Zeroes would be a lie."""
    with pytest.raises(FileNotFoundError):
        details.read_details(group.Group(dict.fromkeys(hierarchy.CONTROLLERS, str(tmp_path / "gone")), 2))


def test_io_is_handed_down_where_there_is_one(tmp_path: Path):
    """It is asked for by itself, so that its refusal takes nothing else with it."""
    hierarchies = hierarchy.Hierarchies(version=2, mounts=tuple((name, str(tmp_path)) for name in hierarchy.CONTROLLERS))
    for path, text in (("", "cpuset cpu io memory pids\n"), ("top", "cpu memory pids\n"), ("top/sandboxes", "cpu memory pids\n")):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.controllers").write_text(text, encoding="ascii")
        (tmp_path / path / "cgroup.subtree_control").write_text("cpu memory pids\n", encoding="ascii")
    hierarchy.ensure_parent(hierarchies, "top")
    written = [(tmp_path / path / "cgroup.subtree_control").read_text(encoding="ascii") for path in ("", "top", "top/sandboxes")]
    assert written == ["+io", "cpu memory pids\n", "cpu memory pids\n"]


def test_block_devices_of_version_1_add_up():
    """Lines of blkio-controller.rst, two devices; the kernel's own totals are left out."""
    moved = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\n7:0 Read 1\n7:0 Write 2\nTotal 12291\n"
    done = "254:0 Read 1\n254:0 Write 2\n7:0 Read 3\nTotal 6\n"
    assert details.parse_blkio(moved, done) == details.Transfers(read_bytes=4097, write_bytes=8194, reads=4, writes=2)
    assert details.parse_blkio("", "Total 0\n") == details.Transfers()


def test_a_link_is_read_from_its_other_end(tmp_path: Path):
    """What the host's end sends is what the sandbox receives; no link is None."""
    directory = tmp_path / "sk1" / "statistics"
    directory.mkdir(parents=True)
    for number, name in enumerate(("tx_bytes", "tx_packets", "tx_dropped", "rx_bytes", "rx_packets", "rx_dropped"), 1):
        (directory / name).write_text(f"{number}\n", encoding="ascii")
    moved = traffic.read_traffic("sk1", root=str(tmp_path))
    assert moved == traffic.Traffic(received_bytes=1, received_packets=2, received_dropped=3, sent_bytes=4, sent_packets=5, sent_dropped=6)
    assert traffic.read_traffic("sk2", root=str(tmp_path)) is None


def test_the_answer_says_null_for_what_is_not_counted():
    """The names are those of docs/streaming.md."""
    read = stats.Stats(1.5, 0.0, 9, 8, None, 0, 1, 0)
    spec = parse_sandbox(
        {
            "apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "a"},
            "spec": {"image": "a", "resources": {"limits": {"disk": "1Gi"}}, "network": {"bandwidth": {"egress": "10M"}}},
        }
    ).spec  # fmt: skip
    bare = details.Details(cache_bytes=1, swap_bytes=None, limit_bytes=None)
    answer = usage.render_usage(read, bare, None, known=usage.Known(), spec=spec)
    assert (answer["io"], answer["network"], answer["pressure"], answer["memory"]["swapBytes"]) == (None, None, None, None)
    full = details.Details(1, 2, 3, details.Transfers(4, 5, 6, 7), {"cpu": {"some": details.Stall(0.1, 0.2, 0.3, 0.4)}})
    answer = usage.render_usage(read, full, traffic.Traffic(1, 2, 3, 4, 5, 6), known=usage.Known(7, 8), spec=spec)
    assert answer["disk"] == {"usedBytes": 7, "limitBytes": 1 << 30}
    assert answer["io"] == {"readBytes": 4, "writeBytes": 5, "reads": 6, "writes": 7}
    assert answer["network"]["sentDropped"] == 6
    assert (answer["network"]["deniedPackets"], answer["network"]["ingressBitsPerSecond"]) == (8, None)
    assert answer["network"]["egressBitsPerSecond"] == 10_000_000
    assert answer["pressure"] == {"cpu": {"some": {"avg10": 0.1, "avg60": 0.2, "avg300": 0.3, "totalSeconds": 0.4}}}
