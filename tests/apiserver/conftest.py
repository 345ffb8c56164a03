"""Tests against a real etcd and kube-apiserver: one control plane for the session, a namespace for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.harness import sockets, subreaper
from tests.harness.controlplane import ControlPlane

subreaper.adopt_orphans()  # here, before any test starts a thread


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane with our resources known."""
    with ControlPlane.start(str(tmp_path_factory.mktemp("controlplane"))) as plane:
        plane.apply_crds()
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace; its sandboxes are removed afterwards, whoever still has a finalizer on them."""
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    for row in control_plane.get("sandboxes", "-n", name)["items"]:
        target = ("-n", name, "sandbox", row["metadata"]["name"])
        control_plane.kubectl("delete", *target, "--wait=false", "--ignore-not-found")
        control_plane.kubectl("patch", *target, "--type=merge", '-p={"metadata":{"finalizers":null}}', check=False)


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> None:
    """The books, opened after the control plane is up: what it holds open is its own business."""
    if "control_plane" in request.fixturenames:
        request.getfixturevalue("control_plane")
    request.getfixturevalue("ledger")


@pytest.fixture(autouse=True)
async def _sockets_close(request: pytest.FixtureRequest, _nothing_stays: None) -> AsyncIterator[None]:
    """After every other fixture of an asynchronous test: TLS says goodbye after close() has returned, and a loop that ends before leaves sockets."""
    yield
    if request.node.get_closest_marker("asyncio") is not None:
        await sockets.settle()
