"""Taking one node of a cluster out of Skerry: its agent ends, and a pod of the agent's own image removes everything from the node.

Each step can be done again. The agent keeps away by a label of the Node, where the chart's DaemonSet does not go; whoever takes that label away
has the agent back.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skerry.errors import Refused, SkerryError

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport

LABEL = "skerry.dev/purged"
"""On a Node: no agent goes there (charts/skerry/templates/agent/daemonset.yaml)."""
_AGENTS = "app.kubernetes.io/name=skerry,app.kubernetes.io/component=agent"
_MERGE = "application/merge-patch+json"
_POLL_SECONDS = 0.5


def purge(transport: ClusterTransport, node: str, *, timeout_seconds: float, say: Callable[[str], None]) -> None:
    """Everything of Skerry leaves *node*, which has no sandbox any more. *say* hears each step when it is done. Raises SkerryError, Refused."""
    end = time.monotonic() + timeout_seconds
    agents = _find_agents(transport)
    namespace = agents["metadata"]["namespace"]
    _label(transport, node)
    _await(lambda: not _list_agents(transport, namespace, node), end, f"the agent of node {node} still runs")
    say("agent ended")
    pod = render_pod(agents, node)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    path = f"{pods}/{pod['metadata']['name']}"
    _remove(transport, path)
    _await(lambda: _find(transport, path) is None, end, f"pod {namespace}/{pod['metadata']['name']} of an earlier purge still ends")
    transport.call("POST", pods, body=pod)
    _await(lambda: _phase(transport, path) in {"Succeeded", "Failed"}, end, f"pod {namespace}/{pod['metadata']['name']} has not ended")
    if _phase(transport, path) == "Failed":
        raise SkerryError(
            f"node {node} is not clean: the purge in pod {namespace}/{pod['metadata']['name']} failed",
            hint=f"why: kubectl logs -n {namespace} {pod['metadata']['name']}; again: skerry node purge {node}",
        )
    say("node clean")
    _remove(transport, path)
    _remove(transport, f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{node}")
    _remove(transport, f"/apis/skerry.dev/v1alpha1/sandboxnodes/{node}")
    say("objects removed")


def render_pod(agents: dict[str, Any], node: str) -> dict[str, Any]:
    """The pod that purges *node*: the agent's own, of the DaemonSet *agents*, with the word `purge` before its flags. Pure."""
    spec = copy.deepcopy(agents["spec"]["template"]["spec"])
    spec |= {"nodeName": node, "restartPolicy": "Never"}
    spec.pop("affinity", None)  # it keeps away from nodes that are being purged
    container = spec["containers"][0]
    container["command"] = ["skerry-agent", "purge", "--images"]
    for name in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
        container.pop(name, None)
    digest = hashlib.sha256(node.encode()).hexdigest()[:10]  # a node's name may be longer than a pod's label
    labels = {"app.kubernetes.io/name": "skerry", "app.kubernetes.io/component": "purge"}
    metadata = {"name": f"skerry-purge-{digest}", "namespace": agents["metadata"]["namespace"], "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _find_agents(transport: ClusterTransport) -> dict[str, Any]:
    """The chart's DaemonSet."""
    found = transport.call("GET", "/apis/apps/v1/daemonsets", query={"labelSelector": _AGENTS})["items"]
    if len(found) != 1:
        raise SkerryError(
            f"the cluster has {len(found)} DaemonSets of agents, and a purge needs the one of the chart",
            hint="on a node whose agent is no pod: skerry-agent purge --images, with the agent's own flags",
        )
    made: dict[str, Any] = found[0]
    return made


def _label(transport: ClusterTransport, node: str) -> None:
    try:
        transport.call("PATCH", f"/api/v1/nodes/{node}", body={"metadata": {"labels": {LABEL: "true"}}}, content=_MERGE)
    except Refused as error:
        if error.status != 404:
            raise
        raise Refused(f"the cluster has no node {node}", status=404, reason="NotFound", hint="which there are: kubectl get nodes") from error


def _list_agents(transport: ClusterTransport, namespace: str, node: str) -> list[Any]:
    query = {"labelSelector": _AGENTS, "fieldSelector": f"spec.nodeName={node}"}
    found: list[Any] = transport.call("GET", f"/api/v1/namespaces/{namespace}/pods", query=query)["items"]
    return found


def _phase(transport: ClusterTransport, path: str) -> str:
    return str(transport.call("GET", path).get("status", {}).get("phase", ""))


def _find(transport: ClusterTransport, path: str) -> Any:
    try:
        return transport.call("GET", path)
    except Refused as error:
        if error.status != 404:
            raise
        return None


def _remove(transport: ClusterTransport, path: str) -> None:
    try:
        transport.call("DELETE", path)
    except Refused as error:
        if error.status != 404:
            raise


def _await(is_done: Callable[[], bool], end: float, problem: str) -> None:
    while not is_done():
        if time.monotonic() > end:
            raise SkerryError(problem, hint="it goes on; again: the same command")
        time.sleep(_POLL_SECONDS)
