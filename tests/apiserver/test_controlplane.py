"""The harness itself: the control plane is a real one, and goes away as told."""

from __future__ import annotations

import json
import os
import time
import urllib.error

import pytest

from tests.harness import etcd
from tests.harness.controlplane import ControlPlane
from tests.harness.processes import ProcessFailed


def _sandbox(name: str, node: str | None = None) -> str:
    spec = {"image": "busybox"} | ({"nodeName": node} if node else {})
    return json.dumps({"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": spec})


def test_every_crd_is_established(control_plane: ControlPlane):
    """What crds/ describes is served."""
    rows = control_plane.get("crds")["items"]
    assert {"sandboxes.skerry.dev", "sandboxnodes.skerry.dev"} <= {row["metadata"]["name"] for row in rows}
    for row in rows:
        conditions = {entry["type"]: entry["status"] for entry in row["status"]["conditions"]}
        assert conditions["Established"] == "True", row["metadata"]["name"]


def test_sandboxes_are_selected_by_node(control_plane: ControlPlane, namespace: str):
    """An agent can ask for its own sandboxes only."""
    for name, node in (("one", "n1"), ("two", "n2"), ("free", None)):
        control_plane.kubectl("create", "-n", namespace, "-f", "-", input=_sandbox(name, node))
    rows = control_plane.get("sandboxes", "-n", namespace, "--field-selector", "spec.nodeName=n1")["items"]
    assert [row["metadata"]["name"] for row in rows] == ["one"]


def test_writes_are_counted_by_object(control_plane: ControlPlane, namespace: str):
    """Each create, change and deletion is one write; an apply without a change is none."""
    before = control_plane.etcd_revision()
    assert control_plane.writes_since(before, prefix="/registry/skerry.dev/") == {}
    control_plane.kubectl("create", "-n", namespace, "-f", "-", input=_sandbox("counted"))
    for _ in range(2):
        control_plane.kubectl("label", "-n", namespace, "sandbox/counted", "--overwrite", "tier=low")
    key = f"/registry/skerry.dev/sandboxes/{namespace}/counted"
    assert control_plane.object_versions()[key] == 2
    control_plane.kubectl("delete", "-n", namespace, "sandbox/counted")
    assert control_plane.writes_since(before)[key] == 3
    assert key not in control_plane.object_versions()


def test_an_outage_comes_and_goes(control_plane: ControlPlane, namespace: str):
    """A frozen server answers nobody, a killed one refuses, and what was written before stays."""
    control_plane.pause()
    try:
        with pytest.raises(ProcessFailed):
            control_plane.kubectl("get", "namespaces", "--request-timeout=1s")
    finally:
        control_plane.resume()
    control_plane.kubectl("get", "namespace", namespace)
    control_plane.stop_apiserver()
    try:
        with pytest.raises(ProcessFailed, match="refused"):
            control_plane.kubectl("get", "namespaces")
    finally:
        control_plane.start_apiserver()
    control_plane.kubectl("get", "namespace", namespace)


def test_stopping_leaves_no_process(tmp_path):
    """After `stop` nothing listens and nothing waits to be reaped; the ledger sees to the processes."""
    start = time.monotonic()
    plane = ControlPlane.start(str(tmp_path))
    plane.stop()
    assert time.monotonic() - start < 60
    with pytest.raises(urllib.error.URLError):
        etcd.Etcd(plane.etcd_endpoint).revision()
    assert os.path.exists(tmp_path / "kube-apiserver.log")
