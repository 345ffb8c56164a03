"""A cluster in which everything that dashboards show happens: for the test of their queries, and for the pictures in the docs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tests.harness.agents import wait_for
from tests.harness.claims import claim_port
from tests.harness.cluster import Cluster
from tests.harness.prometheus import Prometheus

LIMITS = {"limits": {"cpu": "200m", "memory": "48Mi", "pids": 40}}
BUSY = "dd if=/dev/zero of=/tmp/f bs=1M count=6 2>/dev/null; while :; do :; done & while :; do nc -w 1 GATEWAY 9; sleep 0.2; done"
"""Uses its CPU limit, some disk, and its link."""
GREEDY = "x=a; while :; do x=$x$x; done"
"""Meets its memory limit."""
STIR_SECONDS = 5.0
_NUMBERS = itertools.count(1)
FORKS = "while :; do (sleep 30 &) ; done 2>/dev/null"


@contextlib.contextmanager
def running(directory: str, *, tag: str) -> Iterator[tuple[Cluster, Prometheus]]:
    """A cluster with one agent, and a Prometheus that scrapes all of it."""
    operator, gateway, agent = claim_port(), claim_port(), claim_port()
    with Cluster.start(
        directory, tag=tag, operator_flags=[f"--metrics-port={operator}"], gateway_flags=[f"--metrics-port={gateway}"],
        agent_flags=[f"--metrics-address=127.0.0.1:{agent}", "--shells=2"],
    ) as cluster:  # fmt: skip
        jobs = {
            "skerry-operator": [(f"127.0.0.1:{operator}", {})], "skerry-gateway": [(f"127.0.0.1:{gateway}", {})],
            "skerry-agent": [(f"127.0.0.1:{agent}", {"node": cluster.agents[0].name})],
        }  # fmt: skip
        with Prometheus(f"{directory}/prometheus", jobs) as prometheus:
            yield cluster, prometheus


def create(cluster: Cluster, name: str, script: str, **spec: Any) -> None:
    """A sandbox in the namespace default."""
    address = cluster.agents[0].place.address_range
    gateway = re.sub(r"\d+/\d+$", "1", address)
    body = {"image": "busybox", "command": ["sh", "-c", script.replace("GATEWAY", gateway)], **spec}
    apply(cluster, {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "namespace": "default"}, "spec": body})


def apply(cluster: Cluster, manifest: dict[str, Any]) -> None:
    """Create or change an object."""
    cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(manifest))


def play(cluster: Cluster) -> None:
    """Begin everything: limits met, restarts, ends of all kinds, pulls that fail, one that no node takes, streams allowed and refused."""
    create(cluster, "busy", BUSY, resources=LIMITS)
    create(cluster, "greedy", GREEDY, resources={"limits": {"memory": "24Mi"}}, restartPolicy="Always")
    create(cluster, "forks", FORKS, resources={"limits": {"pids": 20, "cpu": "100m"}})
    create(cluster, "idle", "sleep 10000")
    create(cluster, "fails", "exit 3", ttl={"secondsAfterFinished": 2})
    create(cluster, "no-image", "true", image="127.0.0.1:9/none/none:1")
    create(cluster, "no-room", "true", resources={"requests": {"cpu": "4000"}})
    cluster.plane.kubectl("wait", "sandbox/busy", "--for=condition=Ready", "--timeout=60s")
    stir(cluster)


def stir(cluster: Cluster) -> None:
    """What happens once and is over, once more: a start and its end, a pull that fails, streams allowed and refused. A rate forgets them."""
    number = next(_NUMBERS)
    create(cluster, f"short-{number}", "true", ttl={"secondsAfterFinished": 1})
    create(cluster, f"unfetched-{number}", "true", image=f"127.0.0.1:9/none/none:{number}", ttl={"activeSeconds": 5, "secondsAfterFinished": 1})
    stream = "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes"
    for _ in range(2):
        cluster.plane.kubectl("get", "--raw", f"{stream}/busy/stats")
        cluster.plane.kubectl("get", "--raw", f"{stream}/nobody/stats", check=False)


def go_on(cluster: Cluster, seconds: float = float(os.environ.get("SKERRY_SCENARIO_SECONDS", "0"))) -> None:
    """Let things go on happening for so long; SKERRY_SCENARIO_SECONDS=300 is the five minutes of a patient reader of dashboards."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stir(cluster)
        time.sleep(STIR_SECONDS)


def adapt(expression: str, window: str, chosen: Mapping[str, str] = {}) -> str:
    """A panel's query as Grafana would ask it, with these variables *chosen* or else everything, and *window* for its rates."""
    for name in ("namespace", "node", "sandbox"):
        expression = expression.replace(f"${name}", chosen.get(name, ".*"))
    return expression.replace("$__rate_interval", window)


def has_data(answer: list[dict[str, Any]]) -> bool:
    """Whether there is a number in it: a quantile of nothing is NaN."""
    return any(each["value"][1] != "NaN" for each in answer)


def wait_all(cluster: Cluster, prometheus: Prometheus, expressions: list[str], *, what: str) -> None:
    """Until each of *expressions* has an answer, while things go on happening. Raises AssertionError."""
    waiting = list(expressions)
    stirred = time.monotonic()

    def is_done() -> bool:
        nonlocal stirred
        if time.monotonic() - stirred > STIR_SECONDS:
            stir(cluster)
            stirred = time.monotonic()
        waiting[:] = [expression for expression in waiting if not has_data(prometheus.query(expression))]
        return not waiting

    try:
        wait_for(None, what, is_done)
    except Exception as error:
        raise AssertionError(f"no data for {json.dumps(waiting, indent=1)}") from error
