"""Streams of a running sandbox through the real API server: who is let through, who is not, and that nothing happens for who is not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import ssl
import time

import aiohttp
import pytest
from yarl import URL

from skerry_api import streaming
from skerry_operator.gateway import certificates
from tests.harness.cluster import SYSTEM_NAMESPACE, Cluster
from tests.harness.forgery import Forger

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_BASE = "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes/worker"
_COMMAND = "echo to-stdout; echo to-stderr >&2; exec sleep 100000"
_ROLES = {
    "reader": [{"apiGroups": ["stream.skerry.dev"], "resources": ["sandboxes/logs", "sandboxes/stats", "sandboxes/exec"], "verbs": ["get"]}],
    "runner": [{"apiGroups": ["stream.skerry.dev"], "resources": ["sandboxes/exec"], "verbs": ["get", "create"]}],
    "nobody": [],
}


class World:
    """One node, one sandbox that runs, callers with different rights, and a forger."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.plane = cluster.plane
        self.gateway = cluster.gateway
        self.agent = cluster.agents[0]
        self.forger = Forger(cluster.plane, SYSTEM_NAMESPACE)
        self.node = self.plane.get("sandboxnode", self.agent.name)
        self.tokens = {name: self._make_account("default", name, rules) for name, rules in _ROLES.items()}
        self.plane.kubectl("create", "namespace", "elsewhere")
        self.tokens["stranger"] = self._make_account("elsewhere", "stranger", [*_ROLES["reader"], *_ROLES["runner"]])
        self.sandbox = self.make_sandbox("worker")

    def make_sandbox(self, name):
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "namespace": "default"}}
        body["spec"] = {"image": "busybox", "command": ["sh", "-c", _COMMAND], "terminationGracePeriodSeconds": 0}
        self.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
        self.plane.kubectl("wait", f"sandbox/{name}", "--for=jsonpath={.status.phase}=Running", "--timeout=120s")
        return self.plane.get("sandbox", name)

    @contextlib.asynccontextmanager
    async def session(self, token=None, context=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        trusted = context or ssl.create_default_context(cafile=self.plane.ca_path)
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trusted)) as session:
            yield session

    def agent_url(self, subresource="logs"):
        status = self.node["status"]
        return f"https://{status['address']}:{status['port']}/v1/sandboxes/default/worker/{subresource}"

    def agent_audit(self):
        with open(self.agent.log_path, encoding="utf-8") as file:
            return [line for line in file if " audit outcome=" in line]

    def _make_account(self, namespace, name, rules):
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": namespace}, "rules": rules}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }  # fmt: skip
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        self.plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [account, role, binding]}))
        return self.plane.kubectl("create", "token", name, "-n", namespace, "--duration=1h").stdout.strip()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with Cluster.start(str(tmp_path_factory.mktemp("gateway")), tag="gw", agent_flags=["--shells=0"]) as cluster:
        yield World(cluster)


async def _get(session, url):
    async with session.get(url) as answer:
        return answer.status, await answer.text()


def test_kubectl_reads_logs_and_stats(world):
    """`kubectl get --raw` gives the output and what the kernel counts; the group is discovered."""
    assert world.plane.kubectl("get", "--raw", f"{_BASE}/logs").stdout == "to-stdout\nto-stderr\n"
    stats = json.loads(world.plane.kubectl("get", "--raw", f"{_BASE}/stats").stdout)
    assert stats["uid"] == world.sandbox["metadata"]["uid"]
    assert stats["pids"]["current"] == 1
    found = json.loads(world.plane.kubectl("get", "--raw", "/apis/stream.skerry.dev/v1alpha1").stdout)
    assert {row["name"] for row in found["resources"]} == {f"sandboxes/{name}" for name in streaming.VERBS}


async def test_a_reader_reads_options_are_passed_on_and_each_request_is_audited(world):
    """A get-only role is enough for logs; the query reaches the node; gateway and agent write a line each, with the caller's name."""
    before = len(world.gateway.audit()), len(world.agent_audit())
    async with world.session(world.tokens["reader"]) as session:
        assert await _get(session, f"{world.plane.url}{_BASE}/logs?stream=stderr") == (200, "to-stderr\n")
        assert await _get(session, f"{world.plane.url}{_BASE}/proxy/logs?stream=stderr") != (200, "to-stderr\n"), "proxy/ needs its own right"
    for lines, start in ((world.gateway.audit(), before[0]), (world.agent_audit(), before[1])):
        assert len(lines) == start + 1
        assert 'outcome="allowed"' in lines[-1]
        assert 'user="system:serviceaccount:default:reader"' in lines[-1]


async def test_mistakes_are_told_in_words(world):
    """What the node, the gateway and the object refuse is told as the API tells it, with the field."""
    async with world.session(world.plane.token) as session:
        for path, status, words in (
            ("worker/logs?tail=many", 422, "tail: must be a number of lines"),
            ("nobody/logs", 404, 'sandboxes \\"nobody\\" not found'),
            ("worker/nope", 404, "could not find"),
            ("worker/logs?" + "&".join(["x=1"] * 2000), 414, "more than 1024 parameters"),
        ):
            found = await _get(session, f"{world.plane.url}{_BASE.removesuffix('worker')}{path}")
            assert found[0] == status, found
            assert words in found[1]


async def _through_api_server(world, token, *, upgrade=False, subresource="exec", method="GET"):
    async with world.session(token) as session:
        url = f"{world.plane.url}{_BASE}/{subresource}?command=touch&command=/canary"
        if upgrade:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(url, protocols=["v5.channel.k8s.io"])
            return caught.value.status
        async with session.request(method, url) as answer:
            return answer.status


_AT_THE_API_SERVER = [
    pytest.param(None, {"upgrade": True}, id="no token"),
    pytest.param("stranger", {"upgrade": True}, id="rights in another namespace"),
    pytest.param("nobody", {"subresource": "logs"}, id="no right to logs"),
    pytest.param("reader", {"method": "POST"}, id="get-only role, POST"),
    pytest.param("runner", {"subresource": "attach", "upgrade": True}, id="exec role, attach"),
]


@pytest.mark.parametrize(("caller", "how"), _AT_THE_API_SERVER)
async def test_the_api_server_refuses(world, caller, how):
    """Who has no right by the API server's own rules does not reach the gateway, and nothing reaches the agent."""
    before = world.agent_audit()
    assert await _through_api_server(world, world.tokens.get(caller), **how) in {401, 403}
    assert world.agent_audit() == before


async def test_get_is_not_enough_for_exec_over_websocket(world):
    """A WebSocket opens by GET, which the API server takes for the verb get; the gateway asks for create, and says so in its audit."""
    before, gateway_before = world.agent_audit(), len(world.gateway.audit())
    assert await _through_api_server(world, world.tokens["reader"], upgrade=True) == 403
    assert world.agent_audit() == before
    line = world.gateway.audit()[gateway_before]
    assert 'outcome="refused"' in line
    assert 'verb="create"' in line
    assert "may not create sandboxes/exec" in line


async def test_the_gateway_believes_the_api_server_only(world):
    """Without the proxy's certificate the user header is nothing: 401, a line of audit, nothing at the agent."""
    before, gateway_before = world.agent_audit(), len(world.gateway.audit())
    url = f"https://127.0.0.1:{world.gateway.port}{_BASE}/logs"
    headers = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
    host = f"skerry-gateway.{SYSTEM_NAMESPACE}.svc"
    async with (
        world.session(context=world.forger.proxy_context(with_certificate=False)) as session,
        session.get(url, headers=headers, server_hostname=host) as answer,
    ):
        assert answer.status == 401
    context = world.forger.proxy_context(with_certificate=False)
    certificates.load(context, _leaf(world, "front-proxy-client"))  # of our authority, and not of the API server's
    async with world.session(context=context) as session:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            async with session.get(url, headers=headers, server_hostname=host) as answer:
                await answer.read()
    assert world.agent_audit() == before
    line = world.gateway.audit()[gateway_before]
    assert 'outcome="refused"' in line
    assert "only the API server may call here" in line


def _leaf(world, name):
    now = datetime.datetime.now(datetime.UTC)
    return certificates.make_leaf(
        world.forger.generation.authority, name, usages=[certificates.CLIENT], now=now, lifetime=datetime.timedelta(hours=1)
    )


async def test_a_broken_upgrade_is_the_end_of_its_connection(world):
    """A request smuggled behind a refused upgrade, with an identity of its own making, is never read (CVE-2018-1002105)."""
    before, gateway_before = world.agent_audit(), len(world.gateway.audit())
    smuggled = f"GET {_BASE}/logs HTTP/1.1\r\nHost: x\r\nX-Remote-User: admin\r\nX-Remote-Group: system:masters\r\n\r\n"
    for broken in ("Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"):
        first = (
            f"GET {_BASE}/exec?command=id HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{broken}\r\n"
            "X-Remote-User: system:serviceaccount:default:reader\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.gateway.port, ssl=world.forger.proxy_context(), server_hostname=f"skerry-gateway.{SYSTEM_NAMESPACE}.svc"
        )
        writer.write((first + smuggled).encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 403"), answer
        assert answer.count(b"HTTP/1.1") == 1
    assert world.agent_audit() == before
    assert len(world.gateway.audit()) == gateway_before + 2


_NOW = int(time.time() * 1000)
_BAD_TICKETS = [
    pytest.param({"expires_at": _NOW - 1_000_000, "issued_at": _NOW - 1_020_000}, "expired", id="expired"),
    pytest.param({"expires_at": _NOW + 10**9}, "made for more than", id="for ever"),
    pytest.param({"node": "another"}, "for another node", id="another node"),
    pytest.param({"uid": "11111111-2222-3333-4444-555555555555"}, "another sandbox of that name", id="another uid"),
    pytest.param({"subresource": "exec", "verb": "create"}, "for another subresource", id="another subresource"),
    pytest.param({"request_hash": streaming.hash_request("logs", [("tail", "1")])}, "for other arguments", id="other arguments"),
    pytest.param({"key_id": "unknown"}, "key that this agent does not know", id="unknown key"),
]


async def _at_the_agent(world, ticket, *, context=None):
    headers = {streaming.TICKET_HEADER: ticket} if ticket is not None else {}
    async with (
        world.session(context=context or world.forger.agent_context()) as session,
        session.get(world.agent_url(), headers=headers, server_hostname=streaming.agent_host(world.agent.name)) as answer,
    ):
        return answer.status, await answer.text()


async def test_a_good_ticket_holds_once(world):
    """The forger's tickets are good: the table below refuses them for what it changes. The second use of one is refused."""
    ticket = world.forger.ticket(world.sandbox)
    assert await _at_the_agent(world, ticket) == (200, "to-stdout\nto-stderr\n")
    status, text = await _at_the_agent(world, ticket)
    assert (status, "used before" in text) == (403, True)
    assert re.search('outcome="refused".*used before', world.agent_audit()[-1])


@pytest.mark.parametrize(("changes", "words"), _BAD_TICKETS)
async def test_the_agent_refuses_bad_tickets(world, changes, words):
    """Each is 403 with a line of audit that says why, although the gateway's own keys signed it."""
    before = len(world.agent_audit())
    status, text = await _at_the_agent(world, world.forger.ticket(world.sandbox, **changes))
    assert (status, words in text) == (403, True), text
    lines = world.agent_audit()[before:]
    assert len(lines) == 1
    assert 'outcome="refused"' in lines[0]
    assert words in lines[0]


async def test_the_agent_refuses_tickets_that_are_none(world):
    """Nothing, noise, and a ticket whose claims were changed after it was signed."""
    claims, signature = streaming.split(world.forger.ticket(world.sandbox))
    changed = streaming.join(claims.replace(b"forger", b"cheat!"), signature)
    for ticket in (None, "noise", "a.b", "." * 5000, changed):
        assert (await _at_the_agent(world, ticket))[0] == 403


async def test_a_ticket_for_a_sandbox_made_anew_is_refused(world):
    """Names come back, uids do not: the ticket of the sandbox before opens nothing of the one after."""
    before = world.make_sandbox("twice")
    ticket = world.forger.ticket(before)
    world.plane.kubectl("delete", "sandbox", "twice", "--timeout=120s")
    after = world.make_sandbox("twice")
    url = world.agent_url().replace("worker", "twice")
    async with world.session(context=world.forger.agent_context()) as session:
        for text, wanted in ((ticket, 403), (world.forger.ticket(after), 200)):
            headers = {streaming.TICKET_HEADER: text}
            async with session.get(url, headers=headers, server_hostname=streaming.agent_host(world.agent.name)) as answer:
                assert answer.status == wanted
    world.plane.kubectl("delete", "sandbox", "twice", "--timeout=120s")


async def test_the_agents_door_opens_to_the_gateway_only(world):
    """A certificate of our authority for another name is told 401; an agent's own certificate and none at all do not come that far."""
    context = world.forger.agent_context(name="skerry-agent")
    assert (await _at_the_agent(world, world.forger.ticket(world.sandbox), context=context))[0] == 401
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=world.forger.generation.authority.certificate.decode())
    for refused in (bare, world.forger.agent_context(usage=certificates.SERVER)):
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await _at_the_agent(world, world.forger.ticket(world.sandbox), context=refused)


async def test_following_ends_with_the_sandbox_and_the_reader_gets_every_line(world):
    """logs?follow through API server and gateway: all of it, in order, then the end."""
    body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "counter", "namespace": "default"}}
    script = "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done"
    body["spec"] = {"image": "busybox", "command": ["sh", "-c", f"{script}; sleep 1; echo last"]}
    world.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
    world.plane.kubectl("wait", "sandbox/counter", "--for=jsonpath={.status.startedAt}", "--timeout=120s")
    async with world.session(world.plane.token) as session:
        _, text = await _get(session, f"{world.plane.url}{_BASE.replace('worker', 'counter')}/proxy/logs?follow=1")
    assert text.split() == [*(f"line-{number}" for number in range(3000)), "last"]
    world.plane.kubectl("delete", "sandbox", "counter", "--timeout=120s")


async def _exec(world, *command: str):
    """What the channels of an exec carried, through the API server as admin."""
    found = {1: b"", 2: b"", 3: b""}
    url = URL(f"{world.plane.url}{_BASE}/exec").with_query([("command", word) for word in command])
    async with world.session(world.plane.token) as session, session.ws_connect(url, protocols=["v5.channel.k8s.io"]) as socket:
        async for message in socket:
            found[message.data[0]] += message.data[1:]
    return found[1], found[2], json.loads(found[3])


async def test_exec_gives_output_apart_and_the_exit_code(world):
    """Standard output, standard error and 37, as kubectl exec would read them; words are passed on as they are."""
    out, error, status = await _exec(world, "sh", "-c", 'echo "$1"; echo no >&2; exit 37', "sh", "a;b &c=\u00e9 +%20")
    assert (out, error) == ("a;b &c=\u00e9 +%20\n".encode(), b"no\n")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "37"}]


async def test_stdin_is_half_closed_and_large_output_is_whole(world):
    """8 MiB go in and come out again after the close of standard input; then the end."""
    data = os.urandom(1 << 16) * 128
    url = f"{world.plane.url}{_BASE}/exec?command=cat&stdin=1"
    received = bytearray()
    async with world.session(world.plane.token) as session, session.ws_connect(url, protocols=["v5.channel.k8s.io"]) as socket:

        async def send():
            for start in range(0, len(data), 1 << 16):
                await socket.send_bytes(b"\0" + data[start : start + (1 << 16)])
            await socket.send_bytes(b"\xff\0")

        sending = asyncio.create_task(send())
        async for message in socket:
            if message.data[0] == 1:
                received += message.data[1:]
        await sending
    assert bytes(received) == data


async def test_nothing_was_executed_for_whom_was_refused(world):
    """The file that every refused exec would have made is not there; an allowed one makes it, so that the test can fail."""
    for caller, how in [each.values for each in _AT_THE_API_SERVER]:
        await _through_api_server(world, world.tokens.get(caller), **how)
    assert await _through_api_server(world, world.tokens["reader"], upgrade=True) == 403
    _, _, status = await _exec(world, "test", "-e", "/canary")
    assert status["status"] == "Failure"
    async with world.session(world.tokens["runner"]) as session:
        url = f"{world.plane.url}{_BASE}/exec?command=touch&command=/canary"
        async with session.ws_connect(url, protocols=["v5.channel.k8s.io"]) as socket:
            await socket.receive()
    assert (await _exec(world, "test", "-e", "/canary"))[2]["status"] == "Success"
    await _exec(world, "rm", "/canary")
