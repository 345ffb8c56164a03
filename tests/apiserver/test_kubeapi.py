"""The agent's way to a real API server: what the fake claims, the real one does."""

import asyncio
import contextlib
import dataclasses
import json

import pytest

from skerry_api.node import NodeAmounts, NodeStatus, SandboxNode
from skerry_api.sandbox import Phase, SandboxStatus
from skerry_node import errors, kubeapi, sources
from skerry_node.settings import Settings

FINALIZER = "skerry.dev/node-cleanup"
STATUS = SandboxStatus(observed_generation=1, phase=Phase.RUNNING, image_reference="busybox", address="10.88.0.5")


def manifest(name, *, node, finalizers=()):
    return json.dumps({
        "apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name, "finalizers": list(finalizers)},
        "spec": {"image": "busybox", "nodeName": node},
    })  # fmt: skip


class Node:
    """A source for one node, followed."""

    def __init__(self, source, node_name) -> None:
        self.source = source
        self.name = node_name
        self.told: asyncio.Queue = asyncio.Queue()

    async def follow(self):
        async for change in self.source.watch():
            self.told.put_nowait(change)

    async def skip_to(self, kind, *, seconds=180.0):
        async with asyncio.timeout(seconds):
            while not isinstance(change := await self.told.get(), kind):
                pass
        return change


@pytest.fixture
async def node(control_plane, namespace, tmp_path):
    """Named after the test's namespace, so that no other test's sandboxes are seen."""
    settings = Settings(node_name=namespace, state_dir=str(tmp_path / "state"), kubeconfig=control_plane.kubeconfig)
    found = Node(await kubeapi.connect(settings), namespace)
    task = asyncio.create_task(found.follow())
    yield found
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await found.source.close()


def apply(control_plane, namespace, text):
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=text)


async def bound(control_plane, namespace, node, name="a", finalizers=()):
    await node.skip_to(sources.Snapshot)
    await asyncio.to_thread(apply, control_plane, namespace, manifest(name, node=node.name, finalizers=finalizers))
    return (await node.skip_to(sources.Upsert)).sandbox


async def test_only_the_nodes_own_sandboxes_are_seen(control_plane, namespace, node):
    """The field selector holds on list and watch."""
    assert (await node.skip_to(sources.Snapshot)).sandboxes == ()
    await asyncio.to_thread(apply, control_plane, namespace, manifest("other", node="elsewhere"))
    await asyncio.to_thread(apply, control_plane, namespace, manifest("mine", node=node.name))
    assert (await node.skip_to(sources.Upsert)).sandbox.metadata.name == "mine"
    control_plane.kubectl("delete", "sandbox", "mine", "-n", namespace)
    await node.skip_to(sources.Gone)


async def test_status_events_and_node_are_what_kubectl_shows(control_plane, namespace, node):
    """One write for a status; describe has the Event; the node has its numbers and its Lease."""
    sandbox = await bound(control_plane, namespace, node)
    revision = control_plane.etcd_revision()
    await node.source.write_status(sandbox, status=STATUS)
    await node.source.write_status(sandbox, status=STATUS)
    assert control_plane.writes_since(revision).total() == 1
    assert (await node.skip_to(sources.Upsert)).sandbox.status == STATUS
    node.source.post_event(sandbox, reason="Started", message="busybox started in 3 ms")
    status = NodeStatus(capacity=NodeAmounts(cpu_millicores=2000, memory_bytes=1 << 30, pids=100, sandboxes=10), address="192.0.2.1", port=1)
    described = SandboxNode(name=node.name, status=status)
    await node.source.write_node(described)
    revision = control_plane.etcd_revision()
    await node.source.write_node(described)
    assert control_plane.writes_since(revision).total() == 0
    async with asyncio.timeout(60):
        while "busybox started in 3 ms" not in (await asyncio.to_thread(control_plane.kubectl, "describe", "sandbox", "a", "-n", namespace)).stdout:
            pass
    assert control_plane.get("sandboxnode", node.name)["status"]["capacity"]["sandboxes"] == 10
    assert control_plane.get("lease", node.name, "-n", "skerry-system")["spec"]["holderIdentity"].startswith(f"{node.name}/")
    control_plane.kubectl("delete", "sandboxnode", node.name)


async def test_another_uid_of_the_same_name_is_left_alone(control_plane, namespace, node):
    """The guard must hold on the real status subresource, where a merge patch's uid does not."""
    sandbox = await bound(control_plane, namespace, node, finalizers=[FINALIZER])
    stale = dataclasses.replace(sandbox, metadata=dataclasses.replace(sandbox.metadata, uid="of-another-life"))
    before = control_plane.get("sandbox", "a", "-n", namespace)
    await node.source.write_status(stale, status=STATUS)
    await node.source.remove_finalizer(stale)
    await node.source.delete(stale)
    assert control_plane.get("sandbox", "a", "-n", namespace) == before


async def test_a_deleted_object_goes_with_its_finalizer(control_plane, namespace, node):
    """Asked for, seen with its deletion time, let go, gone; and asked again without harm."""
    sandbox = await bound(control_plane, namespace, node, finalizers=[FINALIZER])
    await node.source.delete(sandbox)
    assert (await node.skip_to(sources.Upsert)).sandbox.metadata.deletion_timestamp is not None
    await node.source.write_status(sandbox, status=STATUS)
    await node.source.remove_finalizer(sandbox)
    assert await node.skip_to(sources.Gone) == sources.Gone(sandbox.metadata.uid)
    await node.source.remove_finalizer(sandbox)
    await node.source.delete(sandbox)


async def test_a_second_agent_of_the_name_is_refused(control_plane, node, tmp_path):
    """It says who holds the name and what to do."""
    settings = Settings(node_name=node.name, state_dir=str(tmp_path / "other"), kubeconfig=control_plane.kubeconfig)
    with pytest.raises(errors.NodeNameTaken, match="--node-name"):
        await kubeapi.connect(settings)


async def test_an_account_without_rights_is_told_so(control_plane, namespace, tmp_path, caplog):
    """403 is reported in the server's words; the agent runs on and keeps trying."""
    control_plane.kubectl("create", "serviceaccount", "weak", "-n", namespace)
    settings = Settings(node_name=namespace, state_dir=str(tmp_path / "weak"), kubeconfig=control_plane.account_kubeconfig(namespace, "weak"))
    source = await kubeapi.connect(settings)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await anext(aiter(source.watch()))
    await source.close()
    assert "403" in caplog.text
    assert "cannot list resource" in caplog.text


async def test_a_restart_of_the_server_loses_no_change(control_plane, namespace, node):
    """What happens after it is seen; nothing in between is reported gone."""
    await bound(control_plane, namespace, node)
    control_plane.stop_apiserver()
    await asyncio.sleep(1.0)
    control_plane.start_apiserver()  # in this thread: it dies with the thread that started it
    await asyncio.to_thread(apply, control_plane, namespace, manifest("b", node=node.name))
    told = []
    while "b" not in told:
        change = await node.skip_to((sources.Upsert, sources.Snapshot, sources.Gone))
        assert not isinstance(change, sources.Gone)
        found = change.sandboxes if isinstance(change, sources.Snapshot) else (change.sandbox,)
        told += [each.metadata.name for each in found]
