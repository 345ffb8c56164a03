"""/metrics of a real agent against the kernel's own files: what is told lies between what they say before and after."""

from __future__ import annotations

import os
import re
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import standalone

_PROGRAM = "dd if=/dev/zero of=/tmp/f bs=1M count=8 2>/dev/null; while :; do :; done & sleep 1000 & sleep 1000"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("metrics")
    with standalone.running_busybox(str(directory), tag="km", flags=("--shells=0",)) as agent:
        yield agent


def scrape(node):
    """Samples by name and labels, over HTTP as Prometheus has them."""
    with open(node.log_path, encoding="utf-8") as file:
        url = re.findall(r"metrics=(http://\S+)", file.read())[-1]
    with urllib.request.urlopen(url, timeout=120) as answer:
        text = answer.read().decode()
    return {(each.name, frozenset(each.labels.items())): each.value for family in text_string_to_metric_families(text) for each in family.samples}


def of_box(samples, name="box"):
    return {key: value for (key, labels), value in samples.items() if ("name", name) in labels and key.startswith("skerry_sandbox_")}


class Files:
    """The control files of a sandbox, on either version."""

    def __init__(self, paths) -> None:
        self._paths = paths
        self.is_v2 = any(os.path.exists(f"{path}/cgroup.controllers") for path in paths)

    def read(self, name):
        for path in self._paths:
            if os.path.exists(f"{path}/{name}"):
                with open(f"{path}/{name}", encoding="ascii") as file:
                    return file.read()
        raise FileNotFoundError(name)

    def field(self, name, key):
        return int(dict(line.split() for line in self.read(name).splitlines())[key])

    def cpu_seconds(self):
        return self.field("cpu.stat", "usage_usec") / 1e6 if self.is_v2 else int(self.read("cpuacct.usage")) / 1e9

    def throttled_seconds(self):
        return self.field("cpu.stat", "throttled_usec") / 1e6 if self.is_v2 else self.field("cpu.stat", "throttled_time") / 1e9

    def periods(self):
        return self.field("cpu.stat", "nr_periods")


def test_counters_are_those_of_the_files_and_end_with_the_sandbox(node):
    """CPU and throttling between two readings; memory, processes, limits, disk and the link as they are; afterwards no series is left."""
    node.run("box", "sh", "-c", _PROGRAM, resources={"limits": {"cpu": "200m", "memory": "64Mi", "pids": 50}})
    files = Files(node.inspect("box")["cgroups"])
    standalone.until(lambda: files.field("cpu.stat", "nr_throttled") > 2)
    standalone.until(lambda: of_box(scrape(node)).get("skerry_sandbox_disk_used_bytes", 0) >= 8 << 20, seconds=180)
    node.client.exec("box", ["nc", "-w", "1", node.place.address_range.rsplit(".", 1)[0] + ".1", "9"])
    before = (files.cpu_seconds(), files.throttled_seconds(), files.periods())
    found = of_box(scrape(node))
    after = (files.cpu_seconds(), files.throttled_seconds(), files.periods())
    names = ("cpu_seconds_total", "cpu_throttled_seconds_total", "cpu_periods_total")
    for name, low, high in zip(names, before, after, strict=True):
        assert low <= found[f"skerry_sandbox_{name}"] <= high
    assert found["skerry_sandbox_cpu_limit_cores"] == 0.2
    assert found["skerry_sandbox_memory_limit_bytes"] == 64 << 20
    assert found["skerry_sandbox_pids_limit"] == 50
    assert found["skerry_sandbox_pids"] == int(files.read("pids.current"))
    assert 0 < found["skerry_sandbox_memory_working_set_bytes"] <= found["skerry_sandbox_memory_usage_bytes"] <= 64 << 20
    assert found["skerry_sandbox_memory_peak_bytes"] >= 8 << 20
    assert found["skerry_sandbox_network_sent_packets_total"] >= 1
    assert found["skerry_sandbox_network_sent_bytes_total"] >= 40
    assert found["skerry_sandbox_start_duration_seconds"] > 0
    assert (("skerry_sandbox_io_read_bytes_total" in found), ("skerry_sandbox_pressure_seconds_total" in found)) == (
        files.is_v2 and os.path.exists(f"{node.inspect('box')['cgroups'][0]}/io.stat"),
        files.is_v2 and os.path.exists(f"{node.inspect('box')['cgroups'][0]}/cpu.pressure"),
    )
    node.remove("box")
    assert of_box(scrape(node)) == {}


def test_the_agent_tells_of_its_work(node):
    """A start in its stages, requests to the keeper, the keeper itself, images, room on disk, room for sandboxes."""
    with node.sandbox("one", "sh", "-c", "sleep 0.1; exit 3"):
        node.wait_end("one")
        samples = scrape(node)
        stopped = of_box(samples, "one")
    counts = {name for name, _ in samples}
    assert samples["skerry_start_seconds_count", frozenset({("launch_type", "Cold")})] >= 1
    for stage in ("prepare", "request", "keeper"):
        assert samples["skerry_start_stage_seconds_count", frozenset({("stage", stage)})] >= 1
    assert samples["skerry_sandbox_ends_total", frozenset({("reason", "Error")})] >= 1
    assert samples["skerry_keeper_request_seconds_count", frozenset({("request", "launch"), ("result", "done")})] >= 1
    assert samples["skerry_keeper_connected", frozenset()] == 1
    assert samples["skerry_keeper_resident_memory_bytes", frozenset()] > 1 << 20
    assert samples["skerry_images", frozenset()] == 1
    assert samples["skerry_image_layers_bytes", frozenset()] > 1 << 20
    for name in ("size", "available"):
        assert samples[f"skerry_filesystem_{name}_bytes", frozenset({("filesystem", "scratch")})] > 1 << 20
    assert samples["skerry_node_allocated", frozenset({("resource", "sandboxes")})] == 1
    assert "skerry_watch_age_seconds" not in counts
    assert "skerry_sandbox_cpu_seconds_total" not in stopped  # nothing runs
    assert stopped["skerry_sandbox_phase"] == 1
