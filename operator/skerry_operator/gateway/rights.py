"""May this caller: a SubjectAccessReview for each request. Nothing is remembered: a right that is taken away is gone with the next request."""

from __future__ import annotations

from typing import Any

from skerry_api import streaming
from skerry_operator.client import Client
from skerry_operator.gateway.errors import Forbidden
from skerry_operator.gateway.identity import User

_PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


async def require(connection: Client, user: User, *, namespace: str, name: str, subresource: str) -> None:
    """Raises Forbidden unless *user* has the subresource's verb on it; errors.RequestFailed when the API server cannot say."""
    verb = streaming.VERBS[subresource]
    answer = await connection.request("POST", _PATH, body=_review(user, verb=verb, namespace=namespace, name=name, subresource=subresource))
    status = answer.get("status") or {}
    if status.get("allowed") is not True or status.get("denied"):
        raise Forbidden(
            f"user {user.name} may not {verb} sandboxes/{subresource} of {streaming.GROUP} in namespace {namespace}: "
            f"give it a Role with verb {verb} on sandboxes/{subresource}"
        )


def _review(user: User, *, verb: str, namespace: str, name: str, subresource: str) -> dict[str, Any]:
    attributes = {
        "group": streaming.GROUP, "version": streaming.VERSION, "resource": "sandboxes", "subresource": subresource, "verb": verb,
        "namespace": namespace, "name": name,
    }  # fmt: skip
    spec = {"user": user.name, "uid": user.uid, "groups": list(user.groups), "extra": {key: list(values) for key, values in user.extra}}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {**spec, "resourceAttributes": attributes}}
