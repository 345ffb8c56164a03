"""Pages served inside a sandbox, through the real API server: requests, WebSockets, who may, and what a hostile page is not given."""

from __future__ import annotations

import contextlib
import json
import os
import ssl

import aiohttp
import pytest
from yarl import URL

from tests.harness import pages
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_BASE = "/apis/stream.skerry.dev/v1alpha1/namespaces/default/sandboxes/web/proxy"
_SPEC = {"image": "busybox", "command": ["sleep", "100000"], "terminationGracePeriodSeconds": 0}
_RULES = {
    "watcher": [{"apiGroups": ["stream.skerry.dev"], "resources": ["sandboxes/proxy"], "verbs": ["get", "create"]}],
    "surfer": [
        {"apiGroups": ["stream.skerry.dev"], "resources": ["sandboxes/proxy"], "verbs": ["get", "create"]},
        {"apiGroups": ["stream.skerry.dev"], "resources": ["sandboxes/portforward"], "verbs": ["create"]},
    ],
}


class World:
    """One node, a sandbox with a program that serves pages, and callers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.plane = cluster, cluster.plane
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "web", "namespace": "default"}, "spec": _SPEC}
        self.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
        self.plane.kubectl("wait", "sandbox/web", "--for=jsonpath={.status.phase}=Running", "--timeout=120s")
        self.uid = self.plane.get("sandbox", "web")["metadata"]["uid"]
        self.tokens = {name: self._make_account(name, rules) for name, rules in _RULES.items()}

    @property
    def pid(self) -> int:
        """The first process of the sandbox."""
        with open(os.path.join(self.cluster.agents[0].place.run_dir, "sandboxes", self.uid, "process"), encoding="utf-8") as file:
            return int(json.load(file)["pid"])

    @contextlib.asynccontextmanager
    async def session(self, token):
        trusted = ssl.create_default_context(cafile=self.plane.ca_path)
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(self.plane.url, headers=headers, connector=aiohttp.TCPConnector(ssl=trusted)) as session:
            yield session

    def _make_account(self, name, rules):
        kind = "rbac.authorization.k8s.io"
        role = {"apiVersion": f"{kind}/v1", "kind": "Role", "metadata": {"name": name, "namespace": "default"}, "rules": rules}
        binding = {
            "apiVersion": f"{kind}/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": "default"},
            "roleRef": {"apiGroup": kind, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        }  # fmt: skip
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}}
        self.plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [account, role, binding]}))
        return self.plane.kubectl("create", "token", name, "--duration=1h").stdout.strip()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with Cluster.start(str(tmp_path_factory.mktemp("proxy")), tag="wp", agent_flags=["--shells=0"]) as cluster:
        made = World(cluster)
        with pages.serving(made.pid, 8000):
            yield made


async def test_a_request_reaches_the_program_and_tells_it_nothing_of_the_caller(world):
    """Method, path, query and body arrive; neither token nor cookie nor name does; what a page may is bounded by a policy.

    The API server itself decodes an encoded slash.
    """
    async with world.session(world.tokens["surfer"]) as session:
        url = URL(f"{_BASE}/8000/a%20b/c?x=1&y=2", encoded=True)
        async with session.post(url, data=b"z" * 300_000, headers={"Cookie": "secret=1", "X-Mine": "2"}) as answer:
            told = await answer.json()
            assert answer.status == 200
            assert answer.headers["X-Own"] == "1"
            assert "Set-Cookie" not in answer.headers
            assert "allow-same-origin" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["Content-Security-Policy"].startswith("sandbox ")
    assert (told["method"], told["target"], told["bytes"]) == ("POST", "/a%20b/c?x=1&y=2", 300_000)
    heard = {name.lower(): value for name, value in told["headers"].items()}
    assert heard["x-mine"] == "2"
    assert heard["x-forwarded-prefix"] == f"{_BASE}/8000"
    assert not {name for name in heard if name in {"authorization", "cookie"} or name.startswith(("x-remote", "x-skerry"))}


async def test_redirects_lead_back_through_the_proxy(world):
    """To the program's own paths with the prefix before them, by a page, since the API server passes no redirect; and a port alone is a directory."""
    async with world.session(world.tokens["surfer"]) as session:
        async with session.get(f"{_BASE}/8000/away", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["X-Skerry-Location"]) == (200, f"{_BASE}/8000/there?x=1")
            assert f'url={_BASE}/8000/there?x=1"' in await answer.text()
        async with session.get(f"{_BASE}/8000?q=1") as answer:
            assert (answer.status, answer.headers["X-Skerry-Location"]) == (200, "8000/?q=1")


async def test_a_websocket_passes_both_ways(world):
    """With the protocol that the program chose."""
    async with world.session(world.tokens["surfer"]) as session, session.ws_connect(f"{_BASE}/8000/live", protocols=["other", "chat"]) as socket:
        assert socket.protocol == "chat"
        await socket.send_str("hello")
        assert await socket.receive_str() == "echo hello"


@pytest.mark.parametrize(
    ("token", "path", "status", "words"),
    [
        ("watcher", "8000/", 403, "may not create sandboxes/portforward"),
        ("surfer", "70000/", 400, "a port from 1 to 65535"),
        ("surfer", "8001/", 502, ""),
    ],
)
async def test_refusals_are_told(world, token, path, status, words):
    """Whoever may not forward ports does not reach one by its page; where nothing listens, that is said."""
    async with world.session(world.tokens[token]) as session, session.get(f"{_BASE}/{path}") as answer:
        text = await answer.text()
        assert words in text
        assert answer.status == status or (path == "8001/" and answer.status >= 400), text


async def test_a_page_cannot_open_streams(world):
    """A WebSocket of an opaque origin, such as pages of sandboxes have, opens no exec."""
    async with world.session(world.plane.token) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"{_BASE.removesuffix('/proxy')}/exec?command=true", protocols=["v5.channel.k8s.io"], headers={"Origin": "null"})
    assert caught.value.status == 403


def test_kubectl_gets_a_page(world):
    """As anybody would."""
    told = json.loads(world.plane.kubectl("get", "--raw", f"{_BASE}/8000/index.html").stdout)
    assert told["target"] == "/index.html"
