"""Many sandboxes with policies, ports and bandwidth on one node: does the last one start as quickly as the first, and is nothing left of each.

`SKERRY_BENCH_CROWD` is how many.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable

from bench.row import Row
from tests.harness import images, standalone

_CROWD = int(os.environ.get("SKERRY_BENCH_CROWD", "500"))
_EDGE = 50
_FIRST_PORT = 20_000


def measure(directory: str) -> Iterable[Row]:
    """One after another, by the agent's door; times of starts are the agent's own, from its status."""
    with standalone.running(directory, tag="bc", flags=("--shells=0",)) as agent:
        agent.client.import_image(images.busybox_layout(os.path.join(directory, "layout")))
        with agent.sandbox("warm", "true"):
            agent.wait_end("warm")
        starts = []
        for number in range(_CROWD):
            network = {
                "egress": {"default": "Deny", "allow": [{"cidr": f"192.0.2.{number % 256}/32", "ports": [{"port": 443}]}, {"host": "*.example.com"}]},
                "ports": [{"containerPort": 80, "hostPort": _FIRST_PORT + number}],
                "bandwidth": {"ingress": "10M", "egress": "10M"},
            }
            found = agent.run(f"c{number}", "sleep", "100000", network=network)
            starts.append(float(found.status.start_duration_milliseconds))
        edge = min(_EDGE, _CROWD // 2)
        yield Row("skerry", f"start of the first {edge} of {_CROWD}", "ms", starts[:edge])
        yield Row("skerry", f"start of the last {edge} of {_CROWD}", "ms", starts[-edge:])
        print(f"last to first: {statistics.median(starts[-edge:]) / statistics.median(starts[:edge]):.2f}", flush=True)
        ends = []
        for number in range(edge):
            began = time.perf_counter()
            agent.client.delete(f"c{number}")
            while _is_there(agent, f"c{number}"):
                time.sleep(0.0005)
            ends.append((time.perf_counter() - began) * 1000)
        yield Row("skerry", f"deleted beside {_CROWD - edge}, asked to gone", "ms", ends)


def _is_there(agent: standalone.Standalone, name: str) -> bool:
    """By its record, which goes last: a request would take the agent's time from what is measured."""
    return os.path.lexists(os.path.join(agent.place.state_dir, "status", f"default.{name}.yaml"))
