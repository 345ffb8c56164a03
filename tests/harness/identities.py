"""The chart's accounts, roles and admission policies in a control plane without a kubelet, so that tests run with the rights of a real cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tests.harness import chart
from tests.harness.controlplane import ControlPlane

KINDS = frozenset({
    "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keys:
    """Paths of kubeconfigs: the operator's, the gateway's, and each node's agent's."""

    operator: str
    gateway: str
    agents: dict[str, str]


def establish(plane: ControlPlane, *, namespace: str, nodes: Sequence[str], content: str = "contentAllNamespaces=true") -> Keys:
    """Make *namespace*, apply the chart's identities there, and take tokens; each agent's is bound to a pod of its node.

    *content* is the chart's value that says whose Secrets and ConfigMaps agents read. Raises ProcessFailed.
    """
    plane.kubectl("create", "namespace", namespace)
    wanted = [each for each in chart.render(content, namespace=namespace) if _is_identity(each)]
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))
    pods = [_pod(namespace, node) for node in nodes]
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    return Keys(
        operator=plane.account_kubeconfig(namespace, "skerry-operator"),
        gateway=plane.account_kubeconfig(namespace, "skerry-gateway"),
        agents={node: plane.account_kubeconfig(namespace, "skerry-agent", pod=f"agent-{node}") for node in nodes},
    )


def _is_identity(manifest: chart.Manifest) -> bool:
    return manifest["kind"] in KINDS and "helm.sh/hook" not in manifest["metadata"].get("annotations", {})


def _pod(namespace: str, node: str) -> chart.Manifest:
    """What a DaemonSet would make; nothing runs it."""
    metadata = {"name": f"agent-{node}", "namespace": namespace}
    spec = {"serviceAccountName": "skerry-agent", "nodeName": node, "containers": [{"name": "agent", "image": "none"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
