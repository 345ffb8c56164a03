"""Keys come and go under open streams: nothing breaks, what is old opens nothing any more; a gateway that dies is replaced by the next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import time

import aiohttp
import pytest

from skerry_api import streaming
from tests.harness.cluster import SYSTEM_NAMESPACE, Cluster
from tests.harness.forgery import Forger

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_BASE = "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes/worker"
_KEY_DAYS = 20 / 86_400
"""Twenty seconds between generations, five of overlap; a generation is forgotten forty-five after it began."""
_PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    flags = [f"--key-days={_KEY_DAYS}"]
    with Cluster.start(str(tmp_path_factory.mktemp("rotation")), tag="rt", agent_flags=["--shells=0"], gateway_flags=flags) as running:
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "worker", "namespace": "default"}}
        body["spec"] = {"image": "busybox", "command": ["sleep", "100000"], "terminationGracePeriodSeconds": 0}
        running.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
        running.plane.kubectl("wait", "sandbox/worker", "--for=jsonpath={.status.phase}=Running", "--timeout=120s")
        yield running


@contextlib.asynccontextmanager
async def _cat(cluster):
    """A `cat` in the sandbox."""
    trusted = ssl.create_default_context(cafile=cluster.plane.ca_path)
    headers = {"Authorization": f"Bearer {cluster.plane.token}"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trusted)) as session:
        url = f"{cluster.plane.url}{_BASE}/exec?command=cat&stdin=1"
        async with session.ws_connect(url, protocols=["v5.channel.k8s.io"]) as socket:
            yield socket


async def _echo(socket, text):
    await socket.send_bytes(b"\0" + text)
    async with asyncio.timeout(60):
        return await socket.receive_bytes() == b"\1" + text


async def test_a_stream_outlives_the_keys_it_was_opened_with(cluster):
    """After every key that there was has been replaced and forgotten, an open exec still echoes, a new one opens, an old ticket does not."""
    old = Forger(cluster.plane, SYSTEM_NAMESPACE)
    node, sandbox = cluster.plane.get("sandboxnode", cluster.agents[0].name), cluster.plane.get("sandbox", "worker")
    async with _cat(cluster) as socket:
        assert await _echo(socket, b"before")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while old.generation.name in _trusted(cluster):
            assert time.monotonic() < deadline, "the old keys are still trusted"
            await asyncio.sleep(1)
        assert await _echo(socket, b"after")
        async with _cat(cluster) as another:
            assert await _echo(another, b"new")
        assert await _echo(socket, b"and still")
        status = node["status"]
        url = f"https://{status['address']}:{status['port']}/v1/sandboxes/default/worker/logs"
        new = Forger(cluster.plane, SYSTEM_NAMESPACE)
        while not await _opens(url, new, new.ticket(sandbox), cluster.agents[0].name):
            assert time.monotonic() < deadline, "the agent does not learn of the new keys"
            await asyncio.sleep(0.5)
        assert not await _opens(url, old, old.ticket(sandbox), cluster.agents[0].name)


async def _opens(url, forger, ticket, node):
    """Whether *ticket* opens the agent's door with *forger*'s certificate."""
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=forger.agent_context())) as session:
            headers = {streaming.TICKET_HEADER: ticket}
            async with session.get(url, headers=headers, server_hostname=streaming.agent_host(node)) as answer:
                return answer.status == 200
    except (aiohttp.ClientError, ConnectionError):
        return False


def _trusted(cluster):
    found = cluster.plane.get("configmap", streaming.TRUST_NAME, "-n", SYSTEM_NAMESPACE)
    return json.loads(found["data"][streaming.TRUST_KEYS])


async def test_the_next_gateway_goes_on_with_the_keys_of_the_last(cluster):
    """Kill -9 of the gateway ends its streams; the next one serves at once, with what lies in the cluster, and the agent notices nothing."""
    async with _cat(cluster) as socket:
        assert await _echo(socket, b"x")
        cluster.gateway.kill()
        message = await socket.receive()
        assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
    cluster.gateway.start()
    cluster.gateway.wait_ready()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            async with _cat(cluster) as socket:
                assert await _echo(socket, b"again")
                return
        except aiohttp.WSServerHandshakeError:  # the API server looks again whether the service is there, now and then
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
