"""The helm chart: what it renders for a table of values, what its schema refuses, and that a real API server takes all of it."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from skerry_node import __main__ as agent_main
from skerry_operator import settings as operator_settings
from skerry_operator.gateway import settings as gateway_settings
from tests.harness import chart
from tests.harness.processes import ProcessFailed

_RESTRICTED = ("skerry-operator", "skerry-gateway", "skerry-test")
_VALUES = (
    (),
    ('image.tag="sha256:' + "0" * 64 + '"',),
    ("rbac.aggregate=false", "crds.keep=false", "networkPolicy.enabled=false", "podDisruptionBudget.enabled=false", "flowSchema.enabled=false"),
    ('agent.clusterRanges=["203.0.113.0/24"]', 'agent.forbiddenRanges=["169.254.0.0/16","fd00::/8"]'),
    ('agent.hostPathPrefixes=["/srv/data"]', "agent.allowHostNetwork=true", 'agent.registryConfig="/etc/skerry/certs.d"'),
    ('contentNamespaces=["default"]', 'agent.metricsAddress="0.0.0.0:9465"', 'agent.extraArgs=["--heartbeat-seconds=5"]'),
    ("contentAllNamespaces=true", 'image.pullSecrets=[{"name":"r"}]', 'operator.affinity={"podAntiAffinity":{}}', "agent.tolerations=[]"),
)  # fmt: skip


def _pod(manifest):
    spec = manifest["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


@pytest.mark.parametrize("sets", _VALUES, ids=lambda sets: " ".join(sets)[:40] or "defaults")
def test_every_table_of_values_keeps_the_rules(sets):
    """No wildcard in any role; restricted pods where nothing of the node is needed; flags that the programs know."""
    manifests = chart.render(*sets)
    for each in manifests:
        if each["kind"] in {"Role", "ClusterRole"}:
            for rule in each["rules"]:
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], each["metadata"]["name"]
        if each["metadata"]["name"] in _RESTRICTED and each["kind"] in {"Deployment", "Pod"}:
            pod = _pod(each)
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
                assert container["securityContext"] == wanted
                assert container["resources"]["limits"]["memory"]
    operator = _pod(chart.find(manifests, "Deployment", "skerry-operator"))["containers"][0]
    gateway = _pod(chart.find(manifests, "Deployment", "skerry-gateway"))["containers"][0]
    agent = _pod(chart.find(manifests, "DaemonSet", "skerry-agent"))["containers"][0]
    assert operator_settings.parse(operator["args"]).health_port == 9466
    assert gateway_settings.parse(gateway["args"]).listen == ":8443"
    assert agent_main.read_settings(agent_main._parser().parse_args(agent["args"])).stream_address == ":9469"


@pytest.mark.parametrize("sets", _VALUES, ids=lambda sets: " ".join(sets)[:40] or "defaults")
def test_a_real_api_server_takes_every_manifest(control_plane, sets):
    """Server-side dry run with strict fields: schemas, CEL of the policies, names, all of it. The pod of `helm test` wants its account to exist."""
    manifests = [each for each in chart.render(*sets, namespace="default") if each["kind"] not in {"CustomResourceDefinition", "Pod"}]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    control_plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-", input=text)


def test_the_policies_have_no_type_errors(control_plane):
    """Expressions that the API server checks against the kinds they match compile."""
    wanted = [each for each in chart.render(namespace="default") if each["kind"] == "ValidatingAdmissionPolicy"]
    assert len(wanted) == 6
    for each in wanted:
        each["metadata"]["name"] += "-checked"
    control_plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))
    names = [f"validatingadmissionpolicy/{each['metadata']['name']}" for each in wanted]
    control_plane.kubectl("delete", *names)


@pytest.mark.parametrize(("value", "field"), [
    ('image.pullPolicy="Sometimes"', "pullPolicy"),
    ('image.tag="a tag"', "tag"),
    ("operator.replicas=0", "replicas"),
    ("gateway.port=70000", "port"),
    ('agent.stateDir="var/lib"', "stateDir"),
    ('agent.bridge="a-name-of-sixteen"', "bridge"),
    ('agent.metricsAddress="9465"', "metricsAddress"),
    ('agent.addressRange="10.88.0.0"', "addressRange"),
    ('agent.extraArgs=["shells"]', "extraArgs"),
    ('contentNamespaces=["Default"]', "contentNamespaces"),
    ('agnet={"shells":1}', "agnet"),
])  # fmt: skip
def test_the_schema_refuses(value, field):
    """A wrong value is refused before anything is sent, with the name of its field."""
    with pytest.raises(ProcessFailed, match=field):
        chart.render(value)


def test_definitions_are_the_repositorys_and_stay(tmp_path):
    """Helm upgrade follows crds/; uninstalling keeps them, unless told otherwise."""
    for keep in (True, False):
        rendered = [each for each in chart.render(f"crds.keep={json.dumps(keep)}") if each["kind"] == "CustomResourceDefinition"]
        assert {each["metadata"]["name"] for each in rendered} == {"sandboxes.skerry.dev", "sandboximages.skerry.dev", "sandboxnodes.skerry.dev"}
        for each in rendered:
            assert (each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep") == keep
            with open(os.path.join(chart.DIRECTORY, "..", "..", "crds", f"{each['spec']['names']['singular']}.yaml"), encoding="utf-8") as file:
                assert each["spec"] == yaml.safe_load(file)["spec"]
    assert not [each for each in chart.render("crds.install=false") if each["kind"] == "CustomResourceDefinition"]


def test_hands_of_editors():
    """Whether whoever edits may exec is a value; whoever administers always may."""
    for has_hands in (True, False):
        labels = chart.find(chart.render(f"rbac.handsInEdit={json.dumps(has_hands)}"), "ClusterRole", "skerry-exec")["metadata"]["labels"]
        assert labels["rbac.authorization.k8s.io/aggregate-to-admin"] == "true"
        assert ("rbac.authorization.k8s.io/aggregate-to-edit" in labels) == has_hands
    labels = chart.find(chart.render("rbac.aggregate=false"), "ClusterRole", "skerry-view")["metadata"]["labels"]
    assert not [name for name in labels if "aggregate" in name]


def test_what_agents_may_read():
    """Nobody's Secrets unless named; then those namespaces', and never by listing."""
    bindings = [each for each in chart.render() if each["kind"].endswith("RoleBinding") and each["roleRef"]["name"] == "skerry-agent-content"]
    assert bindings == []
    rendered = chart.render('contentNamespaces=["a","b"]')
    bindings = [each for each in rendered if each["kind"].endswith("RoleBinding") and each["roleRef"]["name"] == "skerry-agent-content"]
    assert [(each["kind"], each["metadata"]["namespace"]) for each in bindings] == [("RoleBinding", "a"), ("RoleBinding", "b")]
    assert chart.find(rendered, "ClusterRole", "skerry-agent-content")["rules"] == [
        {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get"]}
    ]


def test_lint():
    """Helm lint has nothing to say but that an icon would be nice."""
    said = chart.helm("lint", "--strict", chart.DIRECTORY).stdout
    assert "0 chart(s) failed" in said
