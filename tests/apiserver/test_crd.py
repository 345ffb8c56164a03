"""The schemas on a real API server: bad manifests get a sentence, good ones their defaults, and what may not change does not."""

from __future__ import annotations

import pathlib

import pytest

from tests.unit.api import manifests

EXAMPLES = sorted((pathlib.Path(__file__).parents[2] / "examples").glob("*.yaml"))
_LIVE = {
    "resources": {"limits": {"cpu": "2", "memory": "128Mi"}},
    "ttl": {"activeSeconds": 5, "idleSeconds": 6, "onIdle": "Delete"},
    "desiredState": "Stopped",
    "terminationGracePeriodSeconds": 1,
}


def _create(control_plane, namespace, manifest, *, dry=False):
    """Status and message of the answer. By HTTP: kubectl takes half a second of processor each time."""
    manifest = manifest | {"metadata": manifest["metadata"] | {"namespace": namespace}}
    status, answer = control_plane.write("POST", _path(namespace, dry=dry), manifest)
    return status, answer.get("message", "")


def _patch(control_plane, namespace, patch, *, dry=False):
    status, answer = control_plane.write("PATCH", _path(namespace, "/good", dry=dry), patch, kind="application/merge-patch+json")
    return status, answer.get("message", "")


def _path(namespace, name="", *, dry):
    return f"/apis/skerry.dev/v1alpha1/namespaces/{namespace}/sandboxes{name}?fieldValidation=Strict" + ("&dryRun=All" if dry else "")


@pytest.mark.parametrize("row", manifests.BAD, ids=lambda row: row.id)
def test_bad_manifests_are_refused_with_a_sentence(control_plane, row):
    """The answer names the field and says what to write instead, as parse_sandbox does."""
    spec = {key: value for key, value in manifests.good(**row.spec)["spec"].items() if value is not None}
    status, said = _create(control_plane, "default", manifests.good() | {"spec": spec}, dry=True)
    assert 400 <= status < 500
    assert (row.server or row.says) in said
    leaf = row.field.rpartition(".")[2].partition("[")[0]
    assert leaf in said


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_taken(control_plane, path):
    """What the examples say can be applied as it stands."""
    control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))


def test_defaults_are_written_down(control_plane, namespace):
    """Whoever reads the object sees what it means."""
    assert _create(control_plane, namespace, manifests.good()) == (201, "")
    stored = control_plane.get("-n", namespace, "sbx", "good")
    assert stored["spec"] == {
        "image": "docker.io/library/busybox:latest",
        "imagePullPolicy": "IfNotPresent",
        "network": {"mode": "Bridge"},
        "resources": {},
        "restartPolicy": "Never",
        "init": False,
        "stdin": False,
        "tty": False,
        "desiredState": "Running",
        "terminationGracePeriodSeconds": 10,
    }
    assert stored["status"] == {"phase": "Pending"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", "other"),
        ("command", ["b"]),
        ("command", None),
        ("args", ["b"]),
        ("env", []),
        ("workingDir", "/b"),
        ("user", "1"),
        ("hostname", "b"),
        ("security", {"readOnlyRootFilesystem": True}),
        ("volumes", [{"name": "a", "emptyDir": {}}]),
        ("volumes", None),
        ("volumeMounts", []),
        ("network", {"mode": "None"}),
        ("restartPolicy", "Always"),
        ("nodeName", "n2"),
        ("nodeName", None),
        ("nodeName", ""),
    ],
)
def test_what_a_start_used_cannot_change(control_plane, namespace, field, value):
    """The sentence says to write a new Sandbox."""
    good = manifests.good(command=["a"], args=["a"], env=[{"name": "A"}], workingDir="/a", user="0", hostname="a", nodeName="n1")
    good["spec"] |= {"volumes": [{"name": "b", "emptyDir": {}}], "volumeMounts": [{"name": "b", "mountPath": "/b"}]}
    assert _create(control_plane, namespace, good) == (201, "")
    status, said = _patch(control_plane, namespace, {"spec": {field: value}}, dry=True)
    assert 400 <= status < 500
    assert "cannot change" in said
    assert f"spec.{field}" in said


def test_what_takes_effect_live_can_change(control_plane, namespace):
    assert _create(control_plane, namespace, manifests.good()) == (201, "")
    assert _patch(control_plane, namespace, {"spec": _LIVE | {"nodeName": "n1"}}) == (200, "")


def test_agents_select_their_own(control_plane, namespace):
    """spec.nodeName is selectable on the server."""
    for name, node in (("a", "n1"), ("b", "n2")):
        manifest = manifests.good(nodeName=node)
        assert _create(control_plane, namespace, manifest | {"metadata": {"name": name}}) == (201, "")
    found = control_plane.get("-n", namespace, "sandboxes", "--field-selector=spec.nodeName=n1")["items"]
    assert [each["metadata"]["name"] for each in found] == ["a"]


def test_columns_are_those_of_the_api(control_plane, namespace):
    assert _create(control_plane, namespace, manifests.good()) == (201, "")
    table = control_plane.kubectl("get", "-n", namespace, "all", "-o", "wide").stdout.splitlines()
    assert table[0].split() == ["NAME", "PHASE", "NODE", "IMAGE", "ADDRESS", "AGE", "STARTUP", "RESTARTS", "REASON", "DIGEST"]


def test_status_is_a_room_of_its_own(control_plane, namespace):
    """A write of the object leaves status alone."""
    assert _create(control_plane, namespace, manifests.good() | {"status": {"phase": "Running"}}) == (201, "")
    assert control_plane.get("-n", namespace, "sbx", "good")["status"] == {"phase": "Pending"}
