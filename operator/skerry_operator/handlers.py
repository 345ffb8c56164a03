"""kopf's doors: each hands the event to the controller and does nothing else. No kopf finalizer, annotation or peering is used."""

from __future__ import annotations

from typing import Any

import kopf

from skerry_api import names
from skerry_operator.controller import Controller


def make_registry(controller: Controller) -> kopf.OperatorRegistry:
    """The handlers for *controller*."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.batching.batch_window = 0
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.scanning.disabled = True
        settings.watching.server_timeout = 300
        settings.watching.client_timeout = 330

    @kopf.on.login(registry=registry)
    async def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
        """As kubectl does: the pod's own account, or KUBECONFIG."""
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    @kopf.on.event(names.GROUP, names.VERSION, names.SANDBOX_PLURAL, registry=registry)
    async def on_sandbox(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        controller.see_sandbox(type, dict(body))

    @kopf.on.event(names.GROUP, names.VERSION, names.NODE_PLURAL, registry=registry)
    async def on_node(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002
        controller.see_node(type, dict(body))

    @kopf.on.event("coordination.k8s.io", "v1", "leases", registry=registry)
    async def on_lease(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002
        controller.see_lease(type, dict(body))

    return registry
