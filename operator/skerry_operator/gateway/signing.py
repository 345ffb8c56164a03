"""Certificates for agents: CertificateSigningRequests of our signer, granted to the agent of a node for that node's name and to nobody else."""

from __future__ import annotations

import asyncio
import base64
import datetime
import logging
from collections.abc import Callable
from typing import Any

from skerry_api import streaming
from skerry_operator import client, errors
from skerry_operator.client import Client, Json
from skerry_operator.gateway import certificates
from skerry_operator.gateway.trust import Trust

_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_QUERY = f"fieldSelector=spec.signerName%3D{streaming.SIGNER.replace('/', '%2F')}"
_NODE_CLAIM = "authentication.kubernetes.io/node-name"
_USAGES = {"digital signature", "server auth"}
_RETRY_SECONDS = 1.0
_LOG = logging.getLogger("skerry.gateway")


def find_problem(spec: Json, request: certificates.Request, *, agent_account: str) -> str | None:
    """Why this request is not signed; None when it is. Pure.

    The account's tokens are bound to their node by the API server; a cluster admin may have any.
    """
    name = request.dns_names[0] if len(request.dns_names) == 1 else ""
    node_name = name.removesuffix(streaming.agent_host(""))
    if not node_name or name != streaming.agent_host(node_name):
        return f"it must ask for one name, NODE{streaming.agent_host('')}"
    if not set(spec.get("usages") or ()) <= _USAGES:
        return f"its usages are not among: {', '.join(sorted(_USAGES))}"
    if "system:masters" in (spec.get("groups") or ()):
        return None
    if spec.get("username") != agent_account:
        return f"{spec.get('username')} is not the agents' account {agent_account}"
    if list((spec.get("extra") or {}).get(_NODE_CLAIM) or ()) != [node_name]:
        return f"its token is not of a pod on node {node_name}"
    return None


class Signer:
    """Answers requests until cancelled."""

    def __init__(self, connection: Client, trust: Trust, *, agent_account: str, now: Callable[[], datetime.datetime]) -> None:
        self._client = connection
        self._trust = trust
        self._agent_account = agent_account
        self._now = now
        self._answered: set[str] = set()
        """Uids: our approval comes back as an event, and must not be signed twice."""

    async def run(self) -> None:
        """List, then watch, and again when that ends."""
        while True:
            try:
                listed = await self._client.request("GET", f"{_PATH}?{_QUERY}")
                self._answered &= {item["metadata"]["uid"] for item in listed["items"]}
                for item in listed["items"]:
                    await self._answer(item)
                version = listed["metadata"]["resourceVersion"]
                async for event in self._client.watch(f"{_PATH}?{_QUERY}&watch=1&timeoutSeconds=60&resourceVersion={version}"):
                    if event["type"] in {"ADDED", "MODIFIED"}:
                        await self._answer(event["object"])
                    elif event["type"] == "DELETED":
                        self._answered.discard(event["object"]["metadata"]["uid"])
                    elif event["type"] == "ERROR":
                        break
            except (errors.RequestFailed, LookupError) as error:
                _LOG.warning("signing requests are not seen problem=%s", error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _answer(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        if uid in self._answered:
            return
        conditions = (item.get("status") or {}).get("conditions") or []
        if any(each["type"] in {"Denied", "Failed"} for each in conditions) or (item.get("status") or {}).get("certificate"):
            return
        name, spec = item["metadata"]["name"], item["spec"]
        try:
            request = certificates.parse_request(base64.b64decode(spec["request"]))
            problem = find_problem(spec, request, agent_account=self._agent_account)
        except ValueError as error:
            problem = str(error)
        _LOG.info("signing request name=%s user=%s outcome=%s", name, spec.get("username"), problem or "signed")
        try:
            if problem is not None:
                await self._decide(name, item, "Denied", reason="NotTheAgent", message=problem)
                return
            if not conditions:
                await self._decide(name, item, "Approved", reason="AgentOfItsNode", message="signed by the gateway")
            pem = certificates.sign(
                self._trust.signing.authority, request, usages=[certificates.SERVER], now=self._now(), lifetime=self._lifetime(spec)
            )
            body = {"status": {"certificate": base64.b64encode(pem).decode()}}
            await self._client.request("PATCH", f"{_PATH}/{name}/status", body=body, content_type=client.MERGE)
            self._answered.add(uid)
        except (errors.Conflict, errors.NotFound):
            pass  # another gateway answered, or the agent went away
        except errors.RequestFailed as error:
            _LOG.warning("signing request not answered name=%s problem=%s", name, error)

    async def _decide(self, name: str, item: Json, kind: str, *, reason: str, message: str) -> None:
        moment = self._now().isoformat(timespec="seconds").replace("+00:00", "Z")
        condition: dict[str, Any] = {"type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": moment}
        body = {"metadata": {"resourceVersion": item["metadata"]["resourceVersion"]}, "status": {"conditions": [condition]}}
        await self._client.request("PATCH", f"{_PATH}/{name}/approval", body=body, content_type=client.MERGE)

    def _lifetime(self, spec: Json) -> datetime.timedelta:
        asked = spec.get("expirationSeconds")
        return min(self._trust.timing.leaf, datetime.timedelta(seconds=asked)) if asked else self._trust.timing.leaf
