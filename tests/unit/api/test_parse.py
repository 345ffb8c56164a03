"""Manifests without an API server: the same rules and defaults, and nothing lost on the way through values."""

from __future__ import annotations

import pytest

from skerry_api import sandbox
from skerry_api.errors import InvalidManifest
from tests.unit.api import manifests

FULL = manifests.good(
    imagePullPolicy="Always",
    imagePullSecrets=[{"name": "a"}, {"name": "b.c"}],
    command=["sh", "-c"],
    args=["echo $A"],
    env=[
        {"name": "A", "value": "b"},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k.ini"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s.d", "key": "K_1", "optional": True}}},
        {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a.b/c']"}}},
    ],
    workingDir="/srv",
    user="1000:1000",
    hostname="hello",
    resources={"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi", "pids": 256}},
    network={
        "mode": "Bridge",
        "ports": [
            {"name": "http", "containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1", "protocol": "TCP"},
            {"containerPort": 53, "hostPort": 8080, "protocol": "UDP"},
            {"name": "only-named", "containerPort": 81, "protocol": "TCP"},
        ],
    },
    volumes=[
        {"name": "data", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "any", "emptyDir": {}},
        {"name": "cfg", "configMap": {"name": "c", "items": [{"key": "k", "path": "a/b"}], "optional": True}},
        {"name": "sec", "secret": {"secretName": "s", "defaultMode": 256}},
        {"name": "src", "hostPath": {"path": "/srv/data"}},
    ],
    volumeMounts=[{"name": "data", "mountPath": "/data", "readOnly": True, "subPath": "x/y"}, {"name": "any", "mountPath": "/any"}],
    security={"readOnlyRootFilesystem": True, "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]}},
    restartPolicy="OnFailure",
    desiredState="Stopped",
    ttl={"activeSeconds": 3600, "idleSeconds": 60, "onIdle": "Stop", "secondsAfterFinished": 0},
    terminationGracePeriodSeconds=0,
    nodeSelector={"zone": "a"},
    tolerations=[{"key": "dedicated", "operator": "Equal", "value": "x", "effect": "NoSchedule"}],
    nodeName="n1",
)


def test_defaults():
    """What is left out means what the CRD says."""
    spec = sandbox.parse_sandbox(manifests.good()).spec
    assert spec.restart_policy is sandbox.RestartPolicy.NEVER
    assert spec.desired_state is sandbox.DesiredState.RUNNING
    assert spec.network.mode is sandbox.NetworkMode.BRIDGE
    assert spec.termination_grace_period_seconds == 10
    assert spec.command is None
    assert spec.node_name is None


@pytest.mark.parametrize("manifest", [manifests.good(), FULL], ids=["smallest", "full"])
def test_nothing_is_lost(manifest):
    """Parsing what was rendered gives the same value."""
    value = sandbox.parse_sandbox(manifest)
    assert sandbox.parse_sandbox(sandbox.render_sandbox(value)) == value


def test_a_full_manifest_renders_as_written():
    assert sandbox.render_sandbox(sandbox.parse_sandbox(FULL))["spec"] == FULL["spec"]


@pytest.mark.parametrize("row", manifests.BAD, ids=lambda row: row.id)
def test_wrong_manifests_are_refused_with_a_sentence(row):
    """The error names the field and says what to write."""
    with pytest.raises(InvalidManifest) as caught:
        sandbox.parse_sandbox(manifests.good(**row.spec))
    assert caught.value.field == row.field
    assert row.says in caught.value.problem


def test_requests_default_to_limits():
    """What is not asked for is asked for up to the limit, so that a node is never promised twice."""
    spec = sandbox.parse_sandbox(manifests.good(resources={"requests": {"cpu": "0"}, "limits": {"cpu": "1", "memory": "64Mi"}})).spec
    assert spec.resources.requests == sandbox.Amounts(cpu_millicores=0, memory_bytes=64 << 20)
