"""What each identity of the chart must not do, on the real API server: each attempt is 403. Beside it what each may do, which is not."""

from __future__ import annotations

import base64
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from skerry_node.cluster import trust
from tests.harness import identities
from tests.harness.caller import Caller

SYSTEM, TEAM = "rights-system", "rights-team"
MINE, THEIRS = "rights-mine", "rights-theirs"
SKERRY = "/apis/skerry.dev/v1alpha1"
STREAM = "/apis/stream.skerry.dev/v1alpha1"
BOXES = f"{SKERRY}/namespaces/{TEAM}/sandboxes"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CORE = "/api/v1"
TEAM_CORE = f"{CORE}/namespaces/{TEAM}"
STATUS = {"status": {"phase": "Running"}}


def _lease(name):
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": "x"}}


def _node(name):
    return {"apiVersion": "skerry.dev/v1alpha1", "kind": "SandboxNode", "metadata": {"name": name}, "spec": {}}


def _sandbox(name):
    return {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": {"image": "busybox"}}


def _event(host, kind="Sandbox"):
    involved = {"apiVersion": "skerry.dev/v1alpha1", "kind": kind, "namespace": TEAM, "name": "mine"}
    metadata = {"generateName": "e-", "namespace": TEAM}
    return {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": involved, "reason": "R", "source": {"host": host}}


def _request(signer):
    spec = {"request": _CSR, "signerName": signer, "usages": ["digital signature", "server auth"]}
    return {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"generateName": "rights-"}, "spec": spec}


def _make_csr():
    pem = trust._make_request(ec.generate_private_key(ec.SECP256R1()), MINE).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


_CSR = _make_csr()
_POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
_GRANT = {
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "rights-grab"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [],
}  # fmt: skip
_REVIEW = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "eve"}}

AGENT = (
    ("the status of another node's sandbox", "PATCH", f"{BOXES}/theirs/status", STATUS),
    ("another node's sandbox, by JSON patch", "PATCH", f"{BOXES}/theirs/status", [{"op": "add", "path": "/status", "value": {"phase": "Lost"}}]),
    ("the status of a sandbox of no node", "PATCH", f"{BOXES}/free/status", STATUS),
    ("binding a sandbox to itself", "PATCH", f"{BOXES}/free", {"spec": {"nodeName": MINE}}),
    ("the spec of its own sandbox", "PATCH", f"{BOXES}/mine", {"spec": {"desiredState": "Stopped"}}),
    ("labels of its own sandbox", "PATCH", f"{BOXES}/mine", {"metadata": {"labels": {"a": "b"}}}),
    ("others' finalizers of its own sandbox", "PATCH", f"{BOXES}/mine", {"metadata": {"finalizers": []}}),
    ("another node's finalizer", "PATCH", f"{BOXES}/theirs", {"metadata": {"finalizers": []}}),
    ("creating a sandbox", "POST", BOXES, _sandbox("new")),
    ("deleting a sandbox", "DELETE", f"{BOXES}/mine", None),
    ("registering another node", "POST", f"{SKERRY}/sandboxnodes", _node("rights-invented")),
    ("another node's status", "PATCH", f"{SKERRY}/sandboxnodes/{THEIRS}/status", {"status": {"address": "10.0.0.1", "port": 1}}),
    ("another node's labels", "PATCH", f"{SKERRY}/sandboxnodes/{THEIRS}", {"metadata": {"labels": {"a": "b"}}}),
    ("making itself schedulable", "PATCH", f"{SKERRY}/sandboxnodes/{MINE}", {"spec": {"unschedulable": True}}),
    ("deleting a node", "DELETE", f"{SKERRY}/sandboxnodes/{THEIRS}", None),
    ("listing nodes", "GET", f"{SKERRY}/sandboxnodes", None),
    ("another node's heartbeat", "PATCH", f"{LEASES}/{THEIRS}", {"spec": {"holderIdentity": "me"}}),
    ("a Lease of another name", "POST", LEASES, _lease("rights-other")),
    ("the operator's Lease", "PATCH", f"{LEASES}/skerry-operator", {"spec": {"holderIdentity": "me"}}),
    ("a node's Lease of the kubelet", "GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", None),
    ("an event in another node's name", "POST", f"{TEAM_CORE}/events", _event(THEIRS)),
    ("an event about a pod", "POST", f"{TEAM_CORE}/events", _event(MINE, "Pod")),
    ("a certificate of a kubelet", "POST", REQUESTS, _request("kubernetes.io/kubelet-serving")),
    ("a client certificate of the API server", "POST", REQUESTS, _request("kubernetes.io/kube-apiserver-client")),
    ("deleting another's certificate request", "DELETE", f"{REQUESTS}/rights-others", None),
    ("approving a certificate", "PATCH", f"{REQUESTS}/rights-others/approval", {"status": {}}),
    ("the digest of an image", "PATCH", f"{SKERRY}/namespaces/{TEAM}/sandboximages/image/status", {"status": {"digest": f"sha256:{'1' * 64}"}}),
    ("listing secrets", "GET", f"{CORE}/secrets", None),
    ("listing a namespace's secrets", "GET", f"{TEAM_CORE}/secrets", None),
    ("a secret of a namespace that was not named", "GET", f"{CORE}/namespaces/kube-system/secrets/x", None),
    ("the stream keys", "GET", f"{CORE}/namespaces/{SYSTEM}/secrets/skerry-stream-keys", None),
    ("writing the trust", "PATCH", f"{CORE}/namespaces/{SYSTEM}/configmaps/skerry-stream-trust", {"data": {}}),
    ("pods", "GET", f"{CORE}/pods", None),
    ("a pod", "POST", f"{TEAM_CORE}/pods", _POD),
    ("exec into a pod", "POST", f"{TEAM_CORE}/pods/p/exec?command=id", None),
    ("nodes", "GET", f"{CORE}/nodes", None),
    ("exec into a sandbox", "POST", f"{STREAM}/namespaces/{TEAM}/sandboxes/mine/exec?command=id", None),
    ("a grant", "POST", f"{RBAC}/clusterrolebindings", _GRANT),
    ("a token", "POST", f"{CORE}/namespaces/{SYSTEM}/serviceaccounts/skerry-operator/token", {"apiVersion": "authentication.k8s.io/v1"}),
    ("reviews of others' rights", "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", _REVIEW),
)
OPERATOR = (
    ("creating a sandbox", "POST", BOXES, _sandbox("new")),
    ("replacing a sandbox", "PUT", f"{BOXES}/mine", _sandbox("mine")),
    ("deleting all sandboxes at once", "DELETE", BOXES, None),
    ("a node's spec", "PATCH", f"{SKERRY}/sandboxnodes/{MINE}", {"spec": {"unschedulable": True}}),
    ("creating a node", "POST", f"{SKERRY}/sandboxnodes", _node("rights-invented")),
    ("deleting a node", "DELETE", f"{SKERRY}/sandboxnodes/{MINE}", None),
    ("an image's spec", "PATCH", f"{SKERRY}/namespaces/{TEAM}/sandboximages/image", {"spec": {}}),
    ("deleting an image", "DELETE", f"{SKERRY}/namespaces/{TEAM}/sandboximages/image", None),
    ("a node's heartbeat", "PATCH", f"{LEASES}/{MINE}", {"spec": {"holderIdentity": "me"}}),
    ("deleting a Lease", "DELETE", f"{LEASES}/{MINE}", None),
    ("Leases elsewhere", "GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", None),
    ("secrets", "GET", f"{CORE}/secrets", None),
    ("the stream keys", "GET", f"{CORE}/namespaces/{SYSTEM}/secrets/skerry-stream-keys", None),
    ("config maps", "GET", f"{TEAM_CORE}/configmaps", None),
    ("reading events", "GET", f"{TEAM_CORE}/events", None),
    ("pods", "GET", f"{CORE}/pods", None),
    ("a pod", "POST", f"{TEAM_CORE}/pods", _POD),
    ("nodes", "GET", f"{CORE}/nodes", None),
    ("a namespace", "POST", f"{CORE}/namespaces", {"metadata": {"name": "rights-new"}}),
    ("certificate requests", "GET", REQUESTS, None),
    ("exec into a sandbox", "POST", f"{STREAM}/namespaces/{TEAM}/sandboxes/mine/exec?command=id", None),
    ("logs of a sandbox", "GET", f"{STREAM}/namespaces/{TEAM}/sandboxes/mine/logs", None),
    ("a grant", "POST", f"{RBAC}/clusterrolebindings", _GRANT),
    ("definitions", "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", None),
    ("a token", "POST", f"{CORE}/namespaces/{SYSTEM}/serviceaccounts/skerry-gateway/token", {"apiVersion": "authentication.k8s.io/v1"}),
)
GATEWAY = (
    ("listing sandboxes", "GET", f"{SKERRY}/sandboxes", None),
    ("a sandbox", "PATCH", f"{BOXES}/mine", {"spec": {"desiredState": "Stopped"}}),
    ("a sandbox's status", "PATCH", f"{BOXES}/mine/status", STATUS),
    ("creating a sandbox", "POST", BOXES, _sandbox("new")),
    ("deleting a sandbox", "DELETE", f"{BOXES}/mine", None),
    ("listing nodes", "GET", f"{SKERRY}/sandboxnodes", None),
    ("a node's status", "PATCH", f"{SKERRY}/sandboxnodes/{MINE}/status", {"status": {}}),
    ("images", "GET", f"{SKERRY}/sandboximages", None),
    ("Leases", "GET", LEASES, None),
    ("secrets", "GET", f"{CORE}/secrets", None),
    ("secrets of its own namespace", "GET", f"{CORE}/namespaces/{SYSTEM}/secrets", None),
    ("another secret of its own namespace", "GET", f"{CORE}/namespaces/{SYSTEM}/secrets/other", None),
    ("deleting its keys", "DELETE", f"{CORE}/namespaces/{SYSTEM}/secrets/skerry-stream-keys", None),
    ("another config map", "GET", f"{CORE}/namespaces/{SYSTEM}/configmaps/other", None),
    ("a secret elsewhere", "POST", f"{TEAM_CORE}/secrets", {"metadata": {"name": "s"}}),
    ("a certificate request", "POST", REQUESTS, _request("skerry.dev/agent-serving")),
    ("approving a kubelet's certificate", "PATCH", f"{REQUESTS}/rights-others/approval",
     {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Me", "message": ""}]}}),
    ("another API service", "PATCH", "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps", {"spec": {"caBundle": ""}}),
    ("listing API services", "GET", "/apis/apiregistration.k8s.io/v1/apiservices", None),
    ("pods", "GET", f"{CORE}/pods", None),
    ("exec into a pod", "POST", f"{TEAM_CORE}/pods/p/exec?command=id", None),
    ("nodes", "GET", f"{CORE}/nodes", None),
    ("events", "POST", f"{TEAM_CORE}/events", _event(MINE)),
    ("a grant", "POST", f"{RBAC}/clusterrolebindings", _GRANT),
    ("a token", "POST", f"{CORE}/namespaces/{SYSTEM}/serviceaccounts/skerry-agent/token", {"apiVersion": "authentication.k8s.io/v1"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def callers(control_plane):
    """The three, beside a team with a sandbox on each of two nodes and one on none; the agent is that of the first node."""
    control_plane.kubectl("create", "namespace", TEAM)
    keys = identities.establish(control_plane, namespace=SYSTEM, nodes=[MINE, THEIRS], content=f'contentNamespaces=["{TEAM}"]')
    admin = Caller(control_plane.kubeconfig)
    for name in (MINE, THEIRS):
        assert admin.ask("POST", f"{SKERRY}/sandboxnodes", _node(name))[0] == 201
        assert admin.ask("POST", LEASES, _lease(name))[0] == 201
    assert admin.ask("POST", LEASES, _lease("skerry-operator"))[0] == 201
    for name, node in (("mine", MINE), ("theirs", THEIRS), ("free", "")):
        body = _sandbox(name)
        body["spec"] |= {"nodeName": node} if node else {}
        body["metadata"]["finalizers"] = ["skerry.dev/node-cleanup", "example.com/another"] if node else []
        code, answer = admin.ask("POST", BOXES, body)
        assert code == 201, answer
    image = {"apiVersion": "skerry.dev/v1alpha1", "kind": "SandboxImage", "metadata": {"name": "image"}, "spec": {"reference": "busybox"}}
    code, answer = admin.ask("POST", f"{SKERRY}/namespaces/{TEAM}/sandboximages", image)
    assert code == 201, answer
    assert admin.ask("PATCH", f"{SKERRY}/namespaces/{TEAM}/sandboximages/image/status", {"status": {"digest": f"sha256:{'0' * 64}"}})[0] == 200
    request = _request("kubernetes.io/kubelet-serving")
    request["metadata"] = {"name": "rights-others"}
    code, answer = admin.ask("POST", REQUESTS, request)
    assert code == 201, answer
    made = {"agent": Caller(keys.agents[MINE]), "operator": Caller(keys.operator), "gateway": Caller(keys.gateway), "admin": admin}
    _await_policies(made["agent"])
    yield made
    for name in ("mine", "theirs", "free"):
        admin.ask("PATCH", f"{BOXES}/{name}", {"metadata": {"finalizers": []}})
        admin.ask("DELETE", f"{BOXES}/{name}")


def _await_policies(agent):
    """An admission policy is in force a moment after it was made: until each of them refuses."""
    probes = [AGENT[0], AGENT[10], AGENT[17], AGENT[20], AGENT[22], AGENT[26]]
    deadline = time.monotonic() + 120.0
    while any(agent.ask(method, path, body)[0] != 403 for _, method, path, body in probes):
        assert time.monotonic() < deadline
        time.sleep(0.2)


_ALL = [("agent", *row) for row in AGENT] + [("operator", *row) for row in OPERATOR] + [("gateway", *row) for row in GATEWAY]


@pytest.mark.parametrize(("who", "what", "method", "path", "body"), [pytest.param(*row, id=f"{row[0]}: {row[1]}") for row in _ALL])
def test_refused(callers, who, what, method, path, body):
    """Each is 403; that the same request is anything else for the admin shows that it was not refused for its form."""
    code, answer = callers[who].ask(method, path, body)
    assert code == 403, (code, answer.get("message"))


def test_the_agent_does_its_own_work(callers):
    """The control: beside each refusal stands what an agent does all day."""
    agent = callers["agent"]
    allowed = [
        ("PATCH", f"{BOXES}/mine/status", STATUS, 200),
        ("PATCH", f"{BOXES}/mine", {"metadata": {"finalizers": ["example.com/another"]}}, 200),
        ("PATCH", f"{SKERRY}/sandboxnodes/{MINE}", {"metadata": {"labels": {"a": "b"}}}, 200),
        ("PATCH", f"{SKERRY}/sandboxnodes/{MINE}/status", {"status": {"address": "10.0.0.1", "port": 1}}, 200),
        ("PATCH", f"{LEASES}/{MINE}", {"spec": {"holderIdentity": "me"}}, 200),
        ("POST", f"{TEAM_CORE}/events", _event(MINE), 201),
        ("POST", REQUESTS, _request("skerry.dev/agent-serving"), 201),
        ("PATCH", f"{SKERRY}/namespaces/{TEAM}/sandboximages/image/status", {"status": {"layersDigest": f"sha256:{'0' * 64}"}}, 200),
        ("GET", f"{TEAM_CORE}/secrets/none", None, 404),
        ("GET", f"{SKERRY}/sandboxes?fieldSelector=spec.nodeName%3D{MINE}", None, 200),
    ]
    for method, path, body, expected in allowed:
        code, answer = agent.ask(method, path, body)
        assert code == expected, (method, path, answer.get("message"))
        if path == REQUESTS:
            assert agent.ask("DELETE", f"{REQUESTS}/{answer['metadata']['name']}")[0] == 200


def test_a_token_without_a_node_writes_nothing(callers, control_plane):
    """A token of the agents' account that is bound to no pod may read, and no more."""
    loose = Caller(control_plane.account_kubeconfig(SYSTEM, "skerry-agent"))
    assert loose.ask("GET", f"{SKERRY}/sandboxes")[0] == 200
    code, answer = loose.ask("PATCH", f"{BOXES}/mine/status", STATUS)
    assert (code, "names no node" in answer["message"]) == (403, True)


def test_people(callers, control_plane):
    """View reads, edit writes too, and only exec has hands. The roles are aggregated by their labels, which the e2e test sees at work."""
    admin = callers["admin"]
    questions = {
        "view": [("get", "skerry.dev", "sandboxes", "")],
        "edit": [("create", "skerry.dev", "sandboxes", ""), ("delete", "skerry.dev", "sandboxes", "")],
        "exec": [("create", "stream.skerry.dev", "sandboxes", "exec"), ("create", "stream.skerry.dev", "sandboxes", "cp")],
    }
    for role in questions:
        subject = {"kind": "User", "name": f"person-{role}", "apiGroup": "rbac.authorization.k8s.io"}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": f"person-{role}"}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"skerry-{role}"},
        }  # fmt: skip
        assert admin.ask("POST", f"{RBAC}/namespaces/{TEAM}/rolebindings", binding)[0] in {201, 409}
    for person in questions:
        for role, asked in questions.items():
            for verb, group, resource, subresource in asked:
                attributes = {"namespace": TEAM, "verb": verb, "group": group, "resource": resource, "subresource": subresource}
                review = {**_REVIEW, "spec": {"user": f"person-{person}", "resourceAttributes": attributes}}
                _, answer = admin.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
                assert answer["status"]["allowed"] == (person == role), (person, attributes)
