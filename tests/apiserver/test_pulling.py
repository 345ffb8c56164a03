"""Sandboxes from a registry, applied to a real API server: with a pull secret, and each way in which it fails, with its reason."""

from __future__ import annotations

import base64
import json
import os
import time

import pytest

from tests.harness import images, registry
from tests.harness import ledger as books
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
USERS = {"alice": "in wonderland", "bob": "b"}


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A registry with passwords that holds team/app:1, and team/strange:1 for another machine."""
    directory = str(tmp_path_factory.mktemp("registry"))
    layout = images.busybox_layout(os.path.join(directory, "layout"), name="busybox:latest")
    strange = images.busybox_layout(os.path.join(directory, "strange"), name="busybox:latest", architecture="s390x")
    with registry.running(os.path.join(directory, "data"), users=USERS) as found:
        found.push(f"oci:{layout}:busybox:latest", "team/app:1")
        found.push(f"oci:{strange}:busybox:latest", "team/strange:1")
        yield found


@pytest.fixture(autouse=True)
def _nothing_stays() -> None:
    """Nothing, in place of the ledger for each test: one agent lives over all of them, and `cluster` keeps the books."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, private, ledger_scope):
    """One node that may ask the registry at its loopback address; in the end nothing of it is left."""
    before = books.snapshot(ledger_scope)
    directory = str(tmp_path_factory.mktemp("cluster"))
    config = registry.write_hosts(os.path.join(directory, "certs.d"), private.host, f'server = "{private.url}"\n')
    with Cluster.start(directory, tag="pull", agent_flags=(f"--registry-config={config}",)) as found:
        yield found
    assert books.wait_for_balance(before, ledger_scope) == []


def secret(cluster, name, config, *, kind="kubernetes.io/dockerconfigjson", key=".dockerconfigjson"):
    data = {key: base64.b64encode(json.dumps(config).encode()).decode()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "data": data}
    cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body))


def apply(cluster, name, image, **spec: object):
    body = {
        "apiVersion": "skerry.dev/v1alpha1",
        "kind": "Sandbox",
        "metadata": {"name": name},
        "spec": {"image": image, "command": ["sleep", "1000"], **spec},
    }
    cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body))


def wait(cluster, name, reasons, *, seconds=180.0):
    """The condition ImageReady, once its reason is one of *reasons*."""
    deadline = time.monotonic() + seconds
    while True:
        status = cluster.plane.get("sandbox", name).get("status", {})
        found = {each["type"]: each for each in status.get("conditions", ())}.get("ImageReady", {})
        if found.get("reason") in reasons:
            return found
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def events(cluster, name, reason):
    found = cluster.plane.get("events", f"--field-selector=involvedObject.name={name},reason={reason}")["items"]
    return [each["message"] for each in found]


def remove(cluster, name):
    cluster.plane.kubectl("delete", "sandbox", name, "--timeout=120s")


def test_a_pull_secret_opens(cluster, private):
    """Applied, pulled, running; Events tell of it; the status has the digest, and no file of the agent the password."""
    secret(cluster, "regcred", private.docker_config("alice", USERS["alice"]))
    apply(cluster, "good", f"{private.host}/team/app:1", imagePullSecrets=[{"name": "regcred"}])
    cluster.plane.kubectl("wait", "sandbox/good", "--for=condition=Ready", "--timeout=120s")
    status = cluster.plane.get("sandbox", "good")["status"]
    assert status["image"]["digest"].startswith("sha256:")
    deadline = time.monotonic() + 180
    while not events(cluster, "good", "Pulled"):  # Events are sent behind the status
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert events(cluster, "good", "Pulling") == [f'pulling image "{private.host}/team/app:1"']
    place = cluster.agents[0].place
    for top in (place.state_dir, place.run_dir, cluster.agents[0].log_path):
        assert not holds(top, USERS["alice"].encode())
        assert not holds(top, base64.b64encode(f"alice:{USERS['alice']}".encode()))
    assert holds(cluster.agents[0].log_path, b"pulled image=")  # positive control of the search
    remove(cluster, "good")


def test_what_is_here_is_private_still(cluster, private):
    """A sandbox without the secret does not start from the node's cache; with another's right secret it does, and nothing is fetched."""
    image = f"{private.host}/team/app:1"
    secret(cluster, "regcred", private.docker_config("alice", USERS["alice"]))
    apply(cluster, "first", image, imagePullSecrets=[{"name": "regcred"}])
    cluster.plane.kubectl("wait", "sandbox/first", "--for=condition=Ready", "--timeout=120s")
    apply(cluster, "thief", image)
    assert "answers 401 Unauthorized" in wait(cluster, "thief", {"ImagePullFailed"})["message"]
    secret(cluster, "bobs", private.docker_config("bob", USERS["bob"]))
    apply(cluster, "bob", image, imagePullSecrets=[{"name": "bobs"}])
    cluster.plane.kubectl("wait", "sandbox/bob", "--for=condition=Ready", "--timeout=120s")
    assert events(cluster, "bob", "Pulling") == []
    for name in ("first", "thief", "bob"):
        remove(cluster, name)


@pytest.mark.parametrize(
    ("name", "image", "secrets", "says"),
    [
        pytest.param("wrong-secret", "{host}/team/new:1", ["wrong"], "answers 401: UNAUTHORIZED: authentication required", id="wrong secret"),
        pytest.param("no-secret", "{host}/team/new:1", ["absent"], "secret default/absent does not exist", id="absent secret"),
        pytest.param("opaque", "{host}/team/new:1", ["opaque"], "is not of type kubernetes.io/dockerconfigjson", id="secret of another type"),
        pytest.param("no-tag", "{host}/team/app:none", ["regcred"], "answers 404: MANIFEST_UNKNOWN: manifest unknown", id="absent tag"),
        pytest.param("no-repo", "{host}/team/none:1", ["regcred"], "answers 404", id="absent repository"),
        pytest.param(
            "platform", "{host}/team/strange:1", ["regcred"], "the image is made for linux/s390x, this machine is linux/", id="wrong platform"
        ),
        pytest.param("closed", "127.0.0.1:1/team/app:1", [], "127.0.0.1:1 is not asked", id="an address that nobody named"),
    ],
)
def test_each_failure_has_its_reason(cluster, private, name, image, secrets, says):
    """In the condition ImageReady and in an Event, in the registry's words; another sandbox starts meanwhile."""
    secret(cluster, "regcred", private.docker_config("alice", USERS["alice"]))
    secret(cluster, "wrong", private.docker_config("alice", "guess"))
    secret(cluster, "opaque", {}, kind="Opaque")
    apply(cluster, name, image.format(host=private.host), imagePullSecrets=[{"name": each} for each in secrets])
    found = wait(cluster, name, {"ImagePullFailed"})
    assert says in found["message"]
    assert found["status"] == "False"
    apply(cluster, f"{name}-other", "busybox")
    cluster.plane.kubectl("wait", f"sandbox/{name}-other", "--for=condition=Ready", "--timeout=120s")
    remove(cluster, name)
    remove(cluster, f"{name}-other")


def test_a_dead_registry_is_tried_again(cluster, private):
    """Down: a reason. Up again: it starts by itself."""
    secret(cluster, "regcred", private.docker_config("alice", USERS["alice"]))
    private.stop()
    try:
        apply(cluster, "dead", f"{private.host}/team/app:1", imagePullSecrets=[{"name": "regcred"}], imagePullPolicy="Always")
        assert "does not answer" in wait(cluster, "dead", {"ImagePullFailed"}, seconds=180)["message"]
    finally:
        private.start()
    cluster.plane.kubectl("wait", "sandbox/dead", "--for=condition=Ready", "--timeout=120s")
    remove(cluster, "dead")


def holds(top, text):
    """Whether a file at or below *top* holds *text*."""
    paths = [top] if os.path.isfile(top) else [os.path.join(path, name) for path, _, names in os.walk(top) for name in names]
    for path in paths:
        if os.path.isfile(path) and os.path.getsize(path) < 64 << 20:
            with open(path, "rb") as file:
                if text in file.read():
                    return True
    return False
