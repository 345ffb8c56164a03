"""Through a real API server on this machine: create to Ready, a burst of 50, writes to etcd in a life."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from typing import Any

import yaml

from bench.row import Row
from tests.harness.cluster import Cluster

_ONE_BY_ONE, _AT_ONCE, _CLIENTS = 40, 50, 8
_PATH = "/apis/skerry.dev/v1alpha1/namespaces/default/sandboxes"


def measure(directory: str) -> Iterable[Row]:
    """Etcd without fsync, control plane, operator and agent on the same machine; said so in the row."""
    os.makedirs(directory, exist_ok=True)
    with Cluster.start(directory, agents=1, tag="bn", agent_flags=("--shells=50",)) as cluster:
        api = _Api(cluster.plane.kubeconfig)
        watcher = _Watcher(api)
        time.sleep(8)
        revision = cluster.plane.etcd_revision()
        latencies = [watcher.create_and_wait(f"a{number}") for number in range(_ONE_BY_ONE)]
        yield Row("skerry", "create answered to Ready seen, one at a time", "ms", latencies)
        writes = cluster.plane.writes_since(revision)
        yield Row("skerry", "etcd writes, create to Ready", "count", [float(count) for count in writes.values()])
        _delete_all(api, watcher)
        lives = cluster.plane.writes_since(revision)
        yield Row("skerry", "etcd writes in a life, Events apart", "count", [float(count) for count in lives.values()])
        clients = [_Api(cluster.plane.kubeconfig) for _ in range(_CLIENTS)]
        for client in clients:
            client.request("GET", "/version")  # connected: a handshake is the client's own time
        time.sleep(8)
        began = time.perf_counter()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            for client in clients:
                pool.submit(lambda client=client: [client.create(f"b{number}") for number in range(clients.index(client), _AT_ONCE, _CLIENTS)])
        while sum(name.startswith("b") for name in watcher.ready) < _AT_ONCE and time.perf_counter() - began < 30:
            time.sleep(0.001)
        yield Row("skerry", "50 at once, all Ready", "s", [max(at for name, at in watcher.ready.items() if name.startswith("b")) - began])
        began = time.perf_counter()
        _delete_all(api, watcher)
        yield Row("skerry", "50 deleted at once, all gone", "s", [time.perf_counter() - began])


class _Api:
    """One kept-alive connection."""

    def __init__(self, kubeconfig: str) -> None:
        with open(kubeconfig, encoding="utf-8") as file:
            config = yaml.safe_load(file)
        cluster = config["clusters"][0]["cluster"]
        self.host = cluster["server"].removeprefix("https://")
        self.context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self.headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Content-Type": "application/json"}
        self._connection = HTTPSConnection(self.host, context=self.context)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One request."""
        self._connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        response = self._connection.getresponse()
        return json.loads(response.read())

    def create(self, name: str) -> None:
        """Create a sandbox."""
        spec = {"image": "busybox:latest", "command": ["sleep", "10000"], "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}
        body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": spec}
        found = self.request("POST", _PATH, body)
        assert found["kind"] == "Sandbox", found


class _Watcher:
    """Sees when each sandbox becomes Ready, and which there are."""

    def __init__(self, api: _Api) -> None:
        self._api = api
        self.ready: dict[str, float] = {}
        self.there: set[str] = set()
        threading.Thread(target=self._watch, daemon=True).start()

    def create_and_wait(self, name: str) -> float:
        """Milliseconds from the answer to the creation to Ready."""
        self._api.create(name)
        began = time.perf_counter()
        while name not in self.ready:
            time.sleep(0.0002)
        time.sleep(0.1)
        return (self.ready[name] - began) * 1000

    def _watch(self) -> None:
        request = urllib.request.Request(f"https://{self._api.host}{_PATH}?watch=1", headers=self._api.headers)
        with urllib.request.urlopen(request, context=self._api.context) as stream:
            for line in stream:
                event = json.loads(line)
                name = event["object"]["metadata"]["name"]
                if event["type"] == "DELETED":
                    self.there.discard(name)
                    continue
                self.there.add(name)
                conditions = event["object"].get("status", {}).get("conditions", ())
                if name not in self.ready and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
                    self.ready[name] = time.perf_counter()


def _delete_all(api: _Api, watcher: _Watcher) -> None:
    api.request("DELETE", _PATH)
    while watcher.there:
        time.sleep(0.01)
