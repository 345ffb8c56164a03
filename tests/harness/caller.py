"""One identity's raw requests to the API server, for tests of what it may and may not do."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

MERGE, JSON_PATCH, JSON = "application/merge-patch+json", "application/json-patch+json", "application/json"


class Caller:
    """Whoever *kubeconfig* (of `ControlPlane`) says."""

    def __init__(self, kubeconfig: str) -> None:
        with open(kubeconfig, encoding="utf-8") as file:
            config = json.load(file)
        cluster = config["clusters"][0]["cluster"]
        self._server, self._token = cluster["server"], config["users"][0]["user"]["token"]
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status code and body of the answer. A PATCH is a merge patch for an object, a JSON patch for a list."""
        content = JSON if method != "PATCH" else MERGE if isinstance(body, dict) else JSON_PATCH
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, method=method, headers=headers, data=data)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self._tls) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"{}")
