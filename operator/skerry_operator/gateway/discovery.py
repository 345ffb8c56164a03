"""What the API server and kubectl ask an API for: its groups, versions and resources. Constants."""

from __future__ import annotations

from typing import Any

from skerry_api import streaming

_VERSION = {"groupVersion": streaming.API_VERSION, "version": streaming.VERSION}
GROUP: dict[str, Any] = {
    "kind": "APIGroup", "apiVersion": "v1", "name": streaming.GROUP, "versions": [_VERSION], "preferredVersion": _VERSION,
}  # fmt: skip
GROUPS: dict[str, Any] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [GROUP]}
RESOURCES: dict[str, Any] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": streaming.API_VERSION,
    "resources": [
        {"name": f"sandboxes/{name}", "singularName": "", "namespaced": True, "kind": "SandboxStream", "verbs": sorted({"get", verb})}
        for name, verb in sorted(streaming.VERBS.items())
    ],
}
