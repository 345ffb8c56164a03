"""SandboxImages on a real API server with two agents: pulled where they shall be, built once, and told truthfully. Root; docker-registry."""

from __future__ import annotations

import contextlib
import json
import os
import time

import pytest

import skerry
from tests.harness import dockerregistry, images
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def served(ledger, tmp_path):
    """A registry with busybox as team/app:1, and a cluster of two nodes that knows it; the first node is labelled disk=ssd."""
    directory = tmp_path
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(dockerregistry.served(str(directory / "registry")))
        hosts = directory / "certs.d" / (registry.host.replace(":", "_") + "_")
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "http://{registry.host}"\n')
        cluster = stack.enter_context(Cluster.start(str(directory), agents=2, agent_flags=[f"--registry-config={directory / 'certs.d'}"]))
        client = skerry.Client(cluster.agents[0].socket_path)
        *_, done = client.push_image(images.REFERENCE, f"{registry.host}/team/app:1")
        cluster.plane.kubectl("label", "sandboxnode", cluster.agents[0].name, "disk=ssd")
        yield cluster, f"{registry.host}/team/app:1", done["image"]["digest"]


def apply(cluster, name, **spec: object):
    body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "SandboxImage", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
    return cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body), check=False)


def wait(cluster, name, is_done, *, seconds=180):
    """The object once *is_done*."""
    deadline = time.monotonic() + seconds
    while True:
        found = cluster.plane.get("sbi", name)
        if is_done(found.get("status") or {}):
            return found
        assert time.monotonic() < deadline, f"{json.dumps(found.get('status'))}"
        time.sleep(0.1)


def ready(status):
    """Status and reason of the condition Ready."""
    return next(((each["status"], each["reason"]) for each in status.get("conditions", ()) if each["type"] == "Ready"), None)


def delete(cluster, name):
    cluster.plane.kubectl("delete", "sbi", name)


def prepared(cluster, number):
    """What a node says of images, by object."""
    node = cluster.plane.get("sandboxnode", cluster.agents[number].name)
    return {each["object"]: each for each in (node.get("status") or {}).get("prepared", ())}


def test_selected_nodes_pull_and_the_object_says_so(served):
    """Digest, size, layers, nodes, readiness, by `kubectl get sbi`; a wider selector reaches the others; deletion takes the word back."""
    cluster, reference, digest = served
    first, second = (agent.name for agent in cluster.agents)
    assert apply(cluster, "app", reference=reference, prepull={"nodeSelector": {"disk": "ssd"}}).returncode == 0
    status = wait(cluster, "app", lambda status: ready(status) == ("True", "Pulled") and status.get("layersDigest"))["status"]
    assert (status["digest"], status["nodes"], status["progress"], status["nodeName"]) == (digest, [first], "1/1", first)
    client = skerry.Client(cluster.agents[0].socket_path)
    held = client.inspect_image(reference)
    assert status["sizeBytes"] == held["sizeBytes"]
    assert [layer["digest"] for layer in status["layers"]] == [layer["digest"] for layer in held["layers"]]
    table = cluster.plane.kubectl("get", "sbi", "app").stdout.splitlines()
    assert table[0].split() == ["NAME", "READY", "NODES", "SIZE", "IMAGE", "AGE"]
    assert table[1].split()[:3] == ["app", "True", "1/1"]
    others = {image["reference"] for image in skerry.Client(cluster.agents[1].socket_path).images()}
    assert reference not in others
    apply(cluster, "app", reference=reference, prepull={"nodeSelector": {}})
    status = wait(cluster, "app", lambda status: ready(status) == ("True", "Pulled") and status["progress"] == "2/2")["status"]
    assert sorted(status["nodes"]) == sorted([first, second])
    assert status["observedGeneration"] == 2
    delete(cluster, "app")
    deadline = time.monotonic() + 180
    while prepared(cluster, 0) or prepared(cluster, 1):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    check_an_absent_tag(cluster, reference)


def check_an_absent_tag(cluster, reference):
    """What cannot be pulled says why: the registry's own words, and the node that met them."""
    apply(cluster, "absent", reference=reference.removesuffix("1") + "absent", prepull={"nodeSelector": {"disk": "ssd"}})
    status = wait(cluster, "absent", lambda status: (ready(status) or ("", ""))[1] == "PullFailed")["status"]
    message = status["conditions"][0]["message"]
    assert message.startswith(cluster.agents[0].name)
    assert "manifest unknown" in message.lower()
    delete(cluster, "absent")


DOCKERFILE = 'FROM busybox:latest\nARG WORD\nCOPY greeting /etc/greeting\nRUN echo $WORD >> /etc/greeting\nCMD ["cat", "/etc/greeting"]\n'


def test_an_image_is_built_once_and_runs(served):
    """On one node, from inline files or a ConfigMap; a new agent does not build it again; another namespace cannot use it."""
    cluster, _, _ = served
    build = {"tag": "app:1", "dockerfile": DOCKERFILE, "context": {"inline": {"greeting": "hello\n"}}, "args": {"WORD": "world"}}
    assert apply(cluster, "built", build=build).returncode == 0
    status = wait(cluster, "built", lambda status: ready(status) == ("True", "Built") and status.get("layersDigest"))["status"]
    assert (status["image"], status["progress"]) == ("localhost/default/app:1", "1/1")
    assert [layer["instruction"] for layer in status["layers"]][-1].startswith("RUN")
    builder = next(agent for agent in cluster.agents if agent.name == status["nodeName"])
    assert run(cluster, "default", "uses", "localhost/default/app:1", builder.name) == "Succeeded"
    cluster.plane.kubectl("create", "namespace", "strangers")
    assert run(cluster, "strangers", "uses", "localhost/default/app:1", builder.name) == "ImageNotFound"
    builder.restart()
    builder.wait_ready()
    again = wait(cluster, "built", lambda status: ready(status) == ("True", "Built"))["status"]
    time.sleep(3)
    assert wait(cluster, "built", lambda status: ready(status) == ("True", "Built"))["status"]["digest"] == again["digest"] == status["digest"]
    cluster.plane.kubectl("create", "configmap", "files", "--from-literal=greeting=from a map")
    apply(cluster, "built", build={**build, "context": {"configMap": {"name": "files"}}})
    changed = wait(cluster, "built", lambda status: ready(status) == ("True", "Built") and status["observedGeneration"] == 2)["status"]
    assert changed["digest"] != status["digest"]
    delete(cluster, "built")
    check_a_failing_build(cluster)


def run(cluster, namespace, name, image, node):
    """The phase of a sandbox once it has ended, or the reason why it cannot start."""
    body = {
        "apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "namespace": namespace},
        "spec": {"image": image, "nodeName": node},
    }  # fmt: skip
    cluster.plane.kubectl("apply", "-f", "-", input=json.dumps(body))
    deadline = time.monotonic() + 180
    while True:
        status = cluster.plane.get("-n", namespace, "sbx", name).get("status") or {}
        reason = next((each["reason"] for each in status.get("conditions", ()) if each["type"] == "ImageReady"), "")
        if status.get("phase") in {"Succeeded", "Failed"} or reason == "ImageNotFound":
            cluster.plane.kubectl("delete", "-n", namespace, "sbx", name)
            return "ImageNotFound" if reason == "ImageNotFound" else status["phase"]
        assert time.monotonic() < deadline, json.dumps(status)
        time.sleep(0.1)


def check_a_failing_build(cluster):
    """It says the line and what went wrong; nothing is called by the tag."""
    apply(cluster, "broken", build={"tag": "broken", "dockerfile": "FROM busybox:latest\nRUN exit 3\n"})
    status = wait(cluster, "broken", lambda status: (ready(status) or ("", ""))[1] == "BuildFailed")["status"]
    assert "line 2" in status["conditions"][0]["message"]
    assert "digest" not in status
    delete(cluster, "broken")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param({}, "either reference or build", id="nothing"),
        pytest.param({"reference": "a", "build": {"tag": "a", "dockerfile": "FROM a"}}, "either reference or build", id="both"),
        pytest.param({"reference": "-"}, "write an image reference", id="no reference"),
        pytest.param({"build": {"tag": "docker.io/library/python", "dockerfile": "FROM a"}}, "without a registry", id="a registry's name"),
        pytest.param({"build": {"tag": "a", "dockerfile": ""}}, "dockerfile", id="no Dockerfile"),
        pytest.param(
            {"build": {"tag": "a", "dockerfile": "FROM a", "context": {"configMap": {"name": "c"}, "inline": {"f": "x"}}}},
            "either context.configMap or context.inline",
            id="two contexts",
        ),
    ],
)
def test_a_bad_image_is_refused_with_a_sentence(control_plane, spec, says):
    """By the API server, before anybody works on it."""
    body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "SandboxImage", "metadata": {"name": "bad", "namespace": "default"}, "spec": spec}
    done = control_plane.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(body), check=False)
    assert done.returncode != 0
    assert says in done.stderr


def test_an_image_stays_of_its_kind(control_plane, namespace):
    """What was pulled cannot become a built one."""
    body = {"apiVersion": "skerry.dev/v1alpha1", "kind": "SandboxImage", "metadata": {"name": "kind"}, "spec": {"reference": "busybox"}}
    control_plane.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(body))
    patch = json.dumps({"spec": {"reference": None, "build": {"tag": "a", "dockerfile": "FROM a"}}})
    done = control_plane.kubectl("patch", "-n", namespace, "sbi", "kind", "--type=merge", f"-p={patch}", check=False)
    assert "cannot become a built one" in done.stderr
    control_plane.kubectl("delete", "-n", namespace, "sbi", "kind")
