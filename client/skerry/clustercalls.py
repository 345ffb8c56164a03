"""The SDK's calls for a cluster as a whole: nodes, events, changes of a list; a part of Client. Over an agent's socket some are refused."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skerry.errors import Refused

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport
    from skerry.transport import Transport

_POLL_SECONDS = 0.5
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a sandbox, for people; equal ones are one with a count."""

    time: str
    """RFC 3339, of the last one."""
    namespace: str
    name: str
    reason: str
    message: str
    is_warning: bool
    count: int


class ClusterCalls:
    """Nodes and events. Every method raises SkerryError's subclasses."""

    transport: Transport | ClusterTransport
    namespace: str

    def nodes(self) -> tuple[dict[str, Any], ...]:
        """The SandboxNodes, as the API has them. Refused on one machine without a cluster."""
        return tuple(self._cluster("nodes").call("GET", _NODES)["items"])

    def cordon(self, node: str, *, unschedulable: bool = True) -> None:
        """Let *node* take no more sandboxes, or take them again; it keeps what it has."""
        self._cluster("nodes").call("PATCH", f"{_NODES}/{node}", body={"spec": {"unschedulable": unschedulable}}, content=_MERGE)

    def list_on(self, node: str) -> tuple[dict[str, Any], ...]:
        """The sandboxes bound to *node*, of every namespace, as the API has them."""
        selector = {"fieldSelector": f"spec.nodeName={node}"}
        return tuple(self._cluster("nodes").call("GET", "/apis/skerry.dev/v1alpha1/sandboxes", query=selector)["items"])

    def purge_node(self, node: str, *, timeout_seconds: float = 300.0, say: Callable[[str], None] = lambda _: None) -> None:
        """Remove everything of Skerry from *node*: its agent ends and stays away. *say* hears each step. Refused while it has sandboxes."""
        from skerry import purging  # noqa: PLC0415 - few need it

        transport = self._cluster("nodes")
        with contextlib.suppress(Refused):  # it may have no object any more
            self.cordon(node)
        if found := self.list_on(node):
            raise Refused(
                f"node {node} still has {len(found)} sandboxes", status=409, reason="NotEmpty",
                hint=f"it is cordoned; first: skerry node drain {node}",
            )  # fmt: skip
        purging.purge(transport, node, timeout_seconds=timeout_seconds, say=say)

    def events(self, name: str | None = None, *, namespace: str | None = None) -> tuple[Event, ...]:
        """Events about *name*, or about every sandbox of *namespace* (None: of all), oldest first."""
        from skerry.cluster import ClusterTransport  # noqa: PLC0415 - few need it

        if isinstance(self.transport, ClusterTransport):
            return tuple(_from_api(each) for each in self.transport.events(namespace, name=name))
        items = self.transport.request("GET", "/v1/sandboxes", query={"namespace": namespace})["items"]
        found = [event for item in items if name in {None, item["metadata"]["name"]} for event in self._local_events(item["metadata"])]
        return tuple(sorted(found, key=lambda each: each.time))

    def changes(self, *, namespace: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """First every sandbox of *namespace* (None: of all), then what changes: `ADDED`, `MODIFIED` or `DELETED`, and the object. Never ends."""
        from skerry.cluster import OBJECTS, ClusterTransport  # noqa: PLC0415

        if not isinstance(self.transport, ClusterTransport):
            yield from self._poll(namespace)
            return
        path = f"{OBJECTS}/namespaces/{namespace}/sandboxes" if namespace else f"{OBJECTS}/sandboxes"
        known: dict[str, dict[str, Any]] = {}
        while True:
            listed = self.transport.call("GET", path)
            yield from _compare(known, {each["metadata"]["uid"]: each for each in listed["items"]})
            for event in self.transport.watch(path, query={"resourceVersion": listed["metadata"]["resourceVersion"]}):
                item, uid = event["object"], event["object"]["metadata"]["uid"]
                if event["type"] == "DELETED":
                    known.pop(uid, None)
                else:
                    known[uid] = item
                yield event["type"], item

    def _poll(self, namespace: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """An agent has no watch: it is on this machine, and looking costs a millisecond."""
        known: dict[str, dict[str, Any]] = {}
        while True:
            items = self.transport.request("GET", "/v1/sandboxes", query={"namespace": namespace})["items"]
            yield from _compare(known, {each["metadata"]["uid"]: each for each in items})
            time.sleep(_POLL_SECONDS)

    def _local_events(self, metadata: dict[str, Any]) -> list[Event]:
        namespace, name = metadata["namespace"], metadata["name"]
        try:
            raw = self.transport.request("GET", f"/v1/sandboxes/{namespace}/{name}/inspect")
        except Refused as error:
            if error.status == 404:
                return []
            raise
        return [
            Event(each["time"], namespace, name, each["reason"], each["message"], bool(each["warning"]), int(each["count"]))
            for each in raw["node"]["events"]
        ]

    def _cluster(self, what: str) -> ClusterTransport:
        from skerry.cluster import ClusterTransport  # noqa: PLC0415

        if not isinstance(self.transport, ClusterTransport):
            raise Refused(
                f"there are no {what} without a cluster: this agent is the only one", status=405, reason="MethodNotAllowed",
                hint="name a cluster: --kubeconfig FILE; or look at this one: skerry info",
            )  # fmt: skip
        return self.transport


_NODES = "/apis/skerry.dev/v1alpha1/sandboxnodes"


def _compare(known: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What makes *known* into *found*, and does so."""
    for uid in [each for each in known if each not in found]:
        yield "DELETED", known.pop(uid)
    for uid, item in found.items():
        before = known.get(uid)
        known[uid] = item
        if before is None:
            yield "ADDED", item
        elif before != item:
            yield "MODIFIED", item


def _from_api(raw: dict[str, Any]) -> Event:
    last = raw.get("lastTimestamp") or raw.get("eventTime") or raw["metadata"]["creationTimestamp"]
    about = raw["involvedObject"]
    return Event(last, about.get("namespace", ""), about["name"], raw.get("reason", ""), raw.get("message", ""), raw.get("type") == "Warning",
                 int(raw.get("count") or 1))  # fmt: skip
