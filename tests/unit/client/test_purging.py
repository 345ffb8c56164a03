"""A node is purged: the agent goes first, then a pod of its image cleans, then the objects go; each refusal says what to do."""

import copy

import pytest

from skerry import purging
from skerry.errors import Refused, SkerryError

AGENTS = {
    "metadata": {"name": "skerry-agent", "namespace": "system"},
    "spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/component": "agent"}}, "spec": {
        "serviceAccountName": "skerry-agent", "hostPID": True, "affinity": {"nodeAffinity": {}}, "volumes": [{"name": "state"}],
        "containers": [{
            "name": "agent", "image": "i", "command": ["skerry-agent"], "args": ["--node-name=$(NODE_NAME)"], "ports": [{}], "livenessProbe": {},
            "readinessProbe": {}, "startupProbe": {}, "securityContext": {"privileged": True},
        }],
    }}},
}  # fmt: skip
PODS = "/api/v1/namespaces/system/pods"


class Cluster:
    """An API server with one DaemonSet; its pods end the moment they are made."""

    def __init__(self, *, agents=1, nodes=("n1",), phase="Succeeded") -> None:
        self.agents, self.nodes, self.phase = agents, nodes, phase
        self.calls = []
        self.pods = {}

    def call(self, method, path, *, body=None, **_: object):
        self.calls.append((method, path))
        if path.endswith("/daemonsets"):
            return {"items": [copy.deepcopy(AGENTS) for _ in range(self.agents)]}
        if (method, path) == ("GET", PODS):
            return {"items": []}
        if (method, path) == ("POST", PODS):
            self.pods[body["metadata"]["name"]] = {**body, "status": {"phase": self.phase}}
            return body
        known = self.nodes if path.startswith("/api/v1/nodes/") else (*self.pods, "n1")
        name = path.rpartition("/")[2]
        if name not in known:
            raise Refused("not found", status=404, reason="NotFound")
        return self.pods.pop(name, {}) if method == "DELETE" else self.pods.get(name, {})


def purge(cluster, node="n1"):
    said = []
    purging.purge(cluster, node, timeout_seconds=5, say=said.append)
    return said


def test_all_is_well():
    """In this order, and the pod of the purge does not stay."""
    cluster = Cluster()
    assert purge(cluster) == ["agent ended", "node clean", "objects removed"]
    changes = [(method, path.rpartition("/")[0] if method != "POST" else path) for method, path in cluster.calls if method != "GET"]
    assert changes == [
        ("PATCH", "/api/v1/nodes"), ("DELETE", PODS), ("POST", PODS), ("DELETE", PODS),
        ("DELETE", "/apis/coordination.k8s.io/v1/namespaces/system/leases"), ("DELETE", "/apis/skerry.dev/v1alpha1/sandboxnodes"),
    ]  # fmt: skip
    assert cluster.pods == {}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"agents": 0}, "0 DaemonSets", id="no chart"),
        pytest.param({"agents": 2}, "2 DaemonSets", id="two charts"),
        pytest.param({"nodes": ()}, "no node n1", id="no such node"),
        pytest.param({"phase": "Failed"}, "is not clean", id="the purge fails"),
        pytest.param({"phase": "Running"}, "has not ended", id="the purge hangs"),
    ],
)
def test_what_is_wrong_is_said_with_the_next_step(changed, expected, monkeypatch):
    """Nothing is removed from the cluster unless the node is clean."""
    monkeypatch.setattr(purging, "_POLL_SECONDS", 0.01)
    cluster = Cluster(**changed)
    with pytest.raises(SkerryError, match=expected) as caught:
        purging.purge(cluster, "n1", timeout_seconds=0.05, say=lambda _: None)
    assert caught.value.hint
    assert not [path for method, path in cluster.calls if method == "DELETE" and "sandboxnodes" in path]


def test_the_pod_is_the_agents_own_but_for_its_word():
    """Same mounts, same flags, same rights; on the node whatever its labels say; no probe of a door that never opens."""
    pod = purging.render_pod(AGENTS, "n1")
    container = pod["spec"]["containers"][0]
    assert container == {
        "name": "agent", "image": "i", "command": ["skerry-agent", "purge", "--images"], "args": ["--node-name=$(NODE_NAME)"],
        "securityContext": {"privileged": True},
    }  # fmt: skip
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["spec"]["volumes"] == [{"name": "state"}]
    assert "affinity" not in pod["spec"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] != "agent"
    assert len(purging.render_pod(AGENTS, "n" * 250)["metadata"]["name"]) < 64
