"""Volumes made of objects of a real API server: waited for while they are missing, followed when they change, never written down."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time

import pytest

import skerry
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_WORD = "a-word-that-stands-nowhere-else"


def test_a_secret_and_a_config_map_become_files(ledger, tmp_path):
    """A sandbox waits for them by name, runs once they are there, and sees both change; the secret is on no disk and in no status."""
    with Cluster.start(str(tmp_path), tag="vol", agent_flags=("--refresh-seconds=0.5",)) as cluster:
        agent = cluster.agents[0]
        _apply(
            cluster,
            {
                "apiVersion": "skerry.dev/v1alpha1",
                "kind": "Sandbox",
                "metadata": {"name": "v"},
                "spec": {
                    "image": "busybox:latest",
                    "command": ["sleep", "1000"],
                    "volumes": [
                        {"name": "c", "configMap": {"name": "settings"}},
                        {"name": "s", "secret": {"secretName": "password", "items": [{"key": "word", "path": "deep/word"}]}},
                    ],
                    "volumeMounts": [{"name": "c", "mountPath": "/etc/settings"}, {"name": "s", "mountPath": "/run/password"}],
                },
            },
        )
        _until(lambda: _ready(cluster).get("reason") == "VolumeNotReady")
        assert "spec.volumes[c].configMap: no ConfigMap settings in this namespace" in _ready(cluster)["message"]
        _config_map(cluster, "one")
        _secret(cluster, _WORD)
        cluster.plane.kubectl("wait", "sandbox/v", "--for=condition=Ready", "--timeout=120s")
        root = f"/proc/{skerry.Client(agent.socket_path).inspect('v')['node']['pid']}/root"
        assert (_read(f"{root}/etc/settings/key"), _read(f"{root}/run/password/deep/word")) == ("one", _WORD)
        _config_map(cluster, "two")
        _until(lambda: _read(f"{root}/etc/settings/key") == "two")
        found = subprocess.run(["grep", "-rl", _WORD, agent.place.state_dir, agent.log_path], capture_output=True, text=True, check=False)
        assert found.stdout == "", "it lies in memory only"
        assert _WORD not in json.dumps(cluster.plane.get("sandbox", "v")) + json.dumps(cluster.plane.get("events"))
        cluster.plane.kubectl("delete", "sandbox", "v", "--timeout=120s")


def _config_map(cluster, value):
    _apply(cluster, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"key": value}})


def _secret(cluster, word):
    data = {"word": base64.b64encode(word.encode()).decode()}
    _apply(cluster, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}, "data": data})


def _apply(cluster, body):
    cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body))


def _ready(cluster):
    conditions = cluster.plane.get("sandbox", "v").get("status", {}).get("conditions", ())
    return next((each for each in conditions if each["type"] == "Ready"), {})


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _until(is_done, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
