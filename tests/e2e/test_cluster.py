"""Skerry in a real cluster: kubelet, containerd, helm, our own images. The tests build on each other and run in order."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

import skerry
from tests.e2e import dashboard, page
from tests.harness import assets, installation
from tests.harness.agents import python_environment

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
LOGGERS = 30
DELETIONS = int(os.environ.get("SKERRY_E2E_DELETIONS", "3"))
AWAY_SECONDS = float(os.environ.get("SKERRY_E2E_AWAY_SECONDS", "15"))
_COUNT = "i=0; trap 'exit 7' TERM; while :; do echo $i; i=$((i+1)); sleep 0.2 & wait $!; done"


def until(is_done, *, seconds=180.0):
    """Wait for a state of the cluster."""
    deadline = time.monotonic() + seconds
    while not (found := is_done()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="session")
def client(installed):
    return skerry.connect(kubeconfig_path=installed.cluster.plane.kubeconfig)


def _sandboxes(installed):
    return {each["metadata"]["name"]: each for each in installed.cluster.plane.get("sandboxes")["items"]}


def _condition(item, kind):
    return next((each for each in item.get("status", {}).get("conditions", []) if each["type"] == kind), {})


def test_all_is_ready(installed):
    """The node takes sandboxes, the API of streams is served, and the cluster's roles have ours in them."""
    plane = installed.cluster.plane
    nodes = until(lambda: plane.get("sandboxnodes")["items"])
    until(lambda: _condition(plane.get("sandboxnodes")["items"][0], "Ready").get("status") == "True")
    assert [each["metadata"]["name"] for each in nodes] == ["e2e-node"]
    until(lambda: _condition(plane.get("apiservice", "v1alpha1.stream.skerry.dev"), "Available").get("status") == "True")
    for role, verb, path, expected in (
        ("view", "get", "skerry.dev", True), ("view", "create", "skerry.dev", False), ("edit", "create", "skerry.dev", True),
        ("edit", "create", "stream.skerry.dev/exec", True), ("view", "create", "stream.skerry.dev/exec", False),
    ):  # fmt: skip
        plane.kubectl("create", "rolebinding", f"a-{role}", f"--clusterrole={role}", f"--user=a-{role}", check=False)
        group, _, subresource = path.partition("/")
        attributes = {"namespace": "default", "verb": verb, "group": group, "resource": "sandboxes", "subresource": subresource}
        until(lambda attributes=attributes, role=role, expected=expected: _may(plane, f"a-{role}", attributes) == expected)


def _may(plane, user, attributes):
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user, "resourceAttributes": attributes},
    }  # fmt: skip
    made = plane.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review))
    return json.loads(made.stdout)["status"]["allowed"]


def test_examples(installed, client):
    """What examples/ says happens: it runs, it is entered, it dies of its own memory, it sees no network, it goes."""
    plane = installed.cluster.plane
    for name in ("sandbox", "hog", "none"):
        plane.kubectl("apply", "-f", str(EXAMPLES / f"{name}.yaml"))
    until(lambda: _condition(_sandboxes(installed)["hello"], "Ready").get("status") == "True")
    assert client.exec("hello", ["hostname"]).stdout.strip() == b"hello"
    until(lambda: b"hello from hello, PID 1" in b"".join(piece.data for piece in client.logs("hello")))
    found = until(lambda: _sandboxes(installed)["hog"].get("status", {}).get("termination"))
    assert found["reason"] == "OOMKilled"
    plane.kubectl("delete", "sandboxes", "--all", "--timeout=120s")
    assert _sandboxes(installed) == {}


@pytest.fixture(scope="session")
def newcomer(installed, tmp_path_factory):
    """Run a section of docs/getting-started.md as a person would who has this repository, a kubeconfig and values of their own."""
    directory = tmp_path_factory.mktemp("newcomer")
    for name in ("charts", "examples"):
        (directory / name).symlink_to(EXAMPLES.parent / name)
    (directory / "my-values.yml").write_text(json.dumps(installed.values("0.1.0")), encoding="utf-8")
    tools = (sys.executable, assets.ensure_helm(), assets.ensure_prometheus().promtool)
    path = ":".join([*map(os.path.dirname, tools), os.environ["PATH"]])
    env = {**python_environment(), "NODE": "e2e-node", "KUBECONFIG": installed.cluster.plane.kubeconfig, "PATH": path}
    return functools.partial(page.run_section, directory=directory, env=env)


def test_getting_started(newcomer):
    """The page's commands do what it says: the chart, its own test (a pod with few rights runs a sandbox), a sandbox and its output."""
    assert "e2e-node" in newcomer("Install")
    said = newcomer("Run a sandbox")
    assert "hello from hello, PID 1" in said
    assert '"memory"' in said


def test_the_sandbox_is_in_a_dashboard(installed, newcomer, tmp_path):
    """The chart's dashboards are where Grafana looks; Prometheus, as examples/ has it, knows what the panels of `hello` ask; its end follows."""
    page_commands = functools.partial(newcomer, "See it in a dashboard")
    said = page_commands(which=slice(2))
    assert said.count("skerry-dashboard-") == len(list((EXAMPLES.parent / "charts" / "skerry" / "dashboards").glob("*.json")))
    with dashboard.prometheus(tmp_path, installed.cluster.plane.kubeconfig) as prometheus:
        until(lambda: dashboard.is_scraped(prometheus))
        until(lambda: not dashboard.missing(prometheus, {"namespace": "default", "node": "e2e-node", "sandbox": "hello"}))
        assert 'name="hello"' in page_commands(which=slice(2, None), more={"PROMETHEUS": prometheus.url})
    newcomer("End it")


@pytest.fixture(scope="session")
def loggers(installed):
    """Thirty sandboxes that count, and the pids that they must keep."""
    manifest = [
        {
            "apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": f"count-{n}", "namespace": "default"},
            "spec": {"image": "docker.io/library/busybox:latest", "command": ["sh", "-c", _COUNT], "network": {"mode": "None"}},
        }
        for n in range(LOGGERS)
    ]  # fmt: skip
    installed.cluster.plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifest}))
    names = [each["metadata"]["name"] for each in manifest]
    until(lambda: all(_condition(_sandboxes(installed)[name], "Ready").get("status") == "True" for name in names))
    return {name: _pid(_sandboxes(installed)[name]) for name in names}


def _pid(item):
    with open(f"{installation.RUN_DIR}/sandboxes/{item['metadata']['uid']}/process", encoding="utf-8") as file:
        return json.load(file)["pid"]


def _all_live(installed, loggers):
    found = _sandboxes(installed)
    assert {name: _pid(found[name]) for name in loggers} == loggers
    for pid in loggers.values():
        os.kill(pid, 0)
    assert all(found[name]["status"].get("restarts", 0) == 0 and not found[name]["status"].get("termination") for name in loggers)


def _pods(installed):
    found = installed.cluster.plane.get("pods", "-n", installation.NAMESPACE, "-l", "app.kubernetes.io/component=agent")["items"]
    return {each["metadata"]["name"]: _condition(each, "Ready").get("status") == "True" for each in found}


def test_the_agents_pod_comes_and_goes(installed, loggers):
    """Deleted again and again, and rolled twice: nobody dies."""
    plane = installed.cluster.plane
    for _ in range(DELETIONS):
        before = set(_pods(installed))
        plane.kubectl("delete", "pod", "-n", installation.NAMESPACE, *before, "--timeout=120s")
        until(lambda before=before: [ready for name, ready in _pods(installed).items() if name not in before] == [True])
    for _ in range(2):
        plane.kubectl("rollout", "restart", "daemonset/skerry-agent", "-n", installation.NAMESPACE)
        plane.kubectl("rollout", "status", "daemonset/skerry-agent", "-n", installation.NAMESPACE, "--timeout=180s")
    _all_live(installed, loggers)


def test_the_next_version(installed, loggers):
    """Helm upgrade to another version, whose keeper is another one: the keeper executes it, and nobody dies."""
    before = os.listdir(f"{installation.STATE_DIR}/runtime")
    installed.load("0.2.0", note="the next version")
    installed.apply("0.2.0")
    until(lambda: set(os.listdir(f"{installation.STATE_DIR}/runtime")).isdisjoint(before))
    until(lambda: set(_runtimes()) == {f"{installation.STATE_DIR}/runtime/{name}" for name in os.listdir(f"{installation.STATE_DIR}/runtime")})
    _all_live(installed, loggers)


def _runtimes():
    """Whose loader a keeper of ours runs by."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].startswith(f"{installation.STATE_DIR}/runtime/".encode()) and b"-c" in words:
            yield os.path.dirname(words[0].decode())


def test_the_api_server_goes_away(installed, loggers):
    """Meanwhile one sandbox ends; nobody else does, and its end is told soon after the API server is back."""
    uid = _sandboxes(installed)["count-0"]["metadata"]["uid"]
    plane = installed.cluster.plane
    plane.stop_apiserver()
    time.sleep(AWAY_SECONDS)  # how long it is away is the case
    os.kill(loggers.pop("count-0"), 15)
    until(lambda: os.path.exists(f"{installation.RUN_DIR}/sandboxes/{uid}/exit"))
    plane.start_apiserver()
    began = time.monotonic()
    found = until(lambda: _sandboxes(installed)["count-0"]["status"].get("termination"))
    print(f"the end was told {time.monotonic() - began:.1f} s after the API server was back")
    assert (found["reason"], found["exitCode"]) == ("Error", 7)
    _all_live(installed, loggers)


def test_no_line_is_lost_or_doubled(installed, client, loggers):
    """After all of that: every sandbox counted from 0 without a gap, and ends as its program says."""
    plane = installed.cluster.plane
    patch = json.dumps({"spec": {"desiredState": "Stopped"}})
    for name in loggers:
        plane.kubectl("patch", "sandbox", name, "--type=merge", "-p", patch)
    until(lambda: all(each["status"].get("termination") for each in _sandboxes(installed).values()))
    for name, each in _sandboxes(installed).items():
        assert each["status"]["termination"]["exitCode"] == 7, (name, each["status"]["termination"])
        until(lambda name=name: _is_served(client, name))
        numbers = [int(line) for line in b"".join(piece.data for piece in client.logs(name)).split()]
        assert len(numbers) > 20, name
        assert numbers == list(range(len(numbers))), name


def _is_served(client, name):
    try:
        return bool(list(client.logs(name)))
    except skerry.errors.SkerryError:
        return False


def test_one_node_leaves_and_comes_back(installed, newcomer):
    """`skerry node purge`: nothing is left on it, and no agent comes there until its label goes."""
    said = newcomer("Take one node out", which=slice(2))
    assert "e2e-node node clean" in said
    assert _leavings() == []
    assert _pods(installed) == {}
    newcomer("Take one node out", which=slice(2, None))
    until(lambda: list(_pods(installed).values()) == [True])


def _leavings():
    """What of Skerry is still on the node."""
    found = [f"{place}/{name}" for place in (installation.STATE_DIR, installation.RUN_DIR) for name in os.listdir(place)]
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout.split()
    found += [word for word in links if word.startswith((installation.BRIDGE, "ske2e-"))]
    cgroups = pathlib.Path("/sys/fs/cgroup")
    found += [str(path) for path in (*cgroups.glob(f"*/{installation.CGROUP}"), *cgroups.glob(installation.CGROUP))]
    tables = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout.splitlines()
    return found + [line for line in tables if installation.BRIDGE in line] + list(_runtimes())


def _is_ours(name):
    return "skerry" in name and name != "v1alpha1.skerry.dev"  # that one is the API server's own, and goes a moment after the definitions


def test_nothing_is_left(installed, newcomer):
    """As docs/getting-started.md says: delete the sandboxes, purge the nodes, uninstall."""
    plane = installed.cluster.plane
    newcomer("Remove everything")
    assert _leavings() == []
    kinds = ("clusterroles", "clusterrolebindings", "validatingadmissionpolicies", "apiservices", "flowschemas")
    for kind in kinds:
        assert [each["metadata"]["name"] for each in plane.get(kind)["items"] if _is_ours(each["metadata"]["name"])] == []
    until(lambda: not [each for each in plane.get("crds")["items"] if each["spec"]["group"] == "skerry.dev"])
