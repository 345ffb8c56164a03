"""Exec through the API server and the gateway, from connect to the exit code, every sample printed.

    python -m bench.gateway [ROUNDS]

A caller's whole round: TLS to the API server, its authentication and RBAC, the gateway's SubjectAccessReview and look-ups, the agent's ticket,
`true` in the sandbox, the status, the close. Beside it `logs` by plain HTTP, over a connection that is kept.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

import aiohttp

from tests.harness.cluster import Cluster

_BASE = "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes/bench"
_WARM_UP = 5


async def _measure(cluster: Cluster, rounds: int) -> dict[str, list[float]]:
    trusted = ssl.create_default_context(cafile=cluster.plane.ca_path)
    headers = {"Authorization": f"Bearer {cluster.plane.token}"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trusted)) as session:

        async def execute() -> None:
            async with session.ws_connect(f"{cluster.plane.url}{_BASE}/exec?command=true", protocols=["v5.channel.k8s.io"]) as socket:
                received = [message.data async for message in socket]
            if json.loads(received[-1][1:])["status"] != "Success":
                raise SystemExit(f"exec failed: {received!r}")

        async def logs() -> None:
            async with session.get(f"{cluster.plane.url}{_BASE}/logs") as answer:
                if await answer.read() != b"hello\n":
                    raise SystemExit("logs failed")

        return {"exec": await _time(execute, rounds), "logs": await _time(logs, rounds)}


async def _time(act: Callable[[], Awaitable[None]], rounds: int) -> list[float]:
    """Milliseconds, the first few left out."""
    samples = []
    for _ in range(_WARM_UP + rounds):
        begin = time.perf_counter()
        await act()
        samples.append((time.perf_counter() - begin) * 1000)
    return samples[_WARM_UP:]


def main(rounds: int) -> None:
    """Print samples, medians and 95th percentiles."""
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as directory, Cluster.start(directory, tag="bg") as cluster:
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "bench", "namespace": "default"}}
        body["spec"] = {"image": "busybox", "command": ["sh", "-c", "echo hello; exec sleep 100000"], "terminationGracePeriodSeconds": 0}
        cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
        cluster.plane.kubectl("wait", "sandbox/bench", "--for=jsonpath={.status.phase}=Running", "--timeout=30s")
        for name, samples in asyncio.run(_measure(cluster, rounds)).items():
            ordered = sorted(samples)
            print(f"{name}: {' '.join(f'{each:.1f}' for each in samples)}")
            print(f"{name}: p50 {statistics.median(ordered):.1f} ms, p95 {ordered[int(len(ordered) * 0.95)]:.1f} ms, {rounds} rounds")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
