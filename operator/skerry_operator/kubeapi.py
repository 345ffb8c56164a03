"""The operator's writes to the API server, over one kept-alive connection. Reads come by kopf's watches."""

from __future__ import annotations

import json
import ssl
from typing import Any

import aiohttp
from kubernetes.aio import client as aio_client
from kubernetes.aio import config as aio_config

from skerry_api import names, render
from skerry_api.sandbox import Sandbox, SandboxStatus
from skerry_operator.errors import ApiUnavailable, Conflict, Gone

_MERGE = "application/merge-patch+json"
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class KubeApi:
    """Sends requests; make it with `connect`, close it at the end."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def bind(self, sandbox: Sandbox, node_name: str) -> None:
        """One patch: node name and finalizer. Raises Conflict when the object is not the one that was seen."""
        meta = sandbox.metadata
        finalizers = [*meta.finalizers, *([] if names.FINALIZER in meta.finalizers else [names.FINALIZER])]
        body = {
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers},
            "spec": {"nodeName": node_name},
        }
        await self.request("PATCH", _path(sandbox), body)

    async def write_status(self, sandbox: Sandbox, status: SandboxStatus) -> None:
        """Put *status* on the object that was seen."""
        body = {"metadata": {"uid": sandbox.metadata.uid}, "status": render.render_status(status)}
        await self.request("PATCH", _path(sandbox) + "/status", body)

    async def remove_finalizer(self, sandbox: Sandbox) -> None:
        """Let a deleted object go."""
        meta = sandbox.metadata
        left = [each for each in meta.finalizers if each != names.FINALIZER]
        await self.request("PATCH", _path(sandbox), {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": left}})

    async def delete(self, sandbox: Sandbox) -> None:
        """Ask for the object's deletion."""
        await self.request("DELETE", _path(sandbox), {"preconditions": {"uid": sandbox.metadata.uid}})

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """One request; JSON comes back. Raises Gone, Conflict, ApiUnavailable."""
        kind = _MERGE if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(method, self._base + path, data=data, headers={"Content-Type": kind}) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiUnavailable(f"{method} {path}: {error}") from error
        if response.status == 404:
            raise Gone(path)
        if response.status in {409, 422}:
            raise Conflict(f"{method} {path}: {text[:300]}")
        if response.status >= 400:
            raise ApiUnavailable(f"{method} {path}: {response.status} {text[:300]}")
        return json.loads(text) if text else None


async def connect(kubeconfig: str | None) -> KubeApi:
    """Find the API server as kubectl does: *kubeconfig*, KUBECONFIG, or the pod's own account."""
    configuration = aio_client.Configuration()
    await aio_config.load_config(config_file=kubeconfig, client_configuration=configuration)
    headers = {}
    token = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization")
    if token:
        headers["Authorization"] = token if token.startswith("Bearer ") else f"Bearer {token}"
    context: ssl.SSLContext | bool = True
    if configuration.host.startswith("https"):
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    connector = aiohttp.TCPConnector(ssl=context, limit=64, keepalive_timeout=60)
    return KubeApi(aiohttp.ClientSession(connector=connector, headers=headers, timeout=_TIMEOUT), configuration.host)


def _path(sandbox: Sandbox) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{sandbox.metadata.namespace}/{names.SANDBOX_PLURAL}/{sandbox.metadata.name}"
