"""What etcd knows of writes, asked through its HTTP gateway: revisions, versions of keys, every write since a revision."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections import Counter
from typing import Any

_EVERYTHING = base64.b64encode(b"\0").decode()  # as key and range_end: all keys (etcd API, RangeRequest)


class Etcd:
    """An etcd by its client URL. Revisions grow by one with each write, whoever makes it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def revision(self) -> int:
        """The store's current revision."""
        return int(self._post("/v3/maintenance/status", {})["header"]["revision"])

    def object_versions(self, prefix: str) -> dict[str, int]:
        """How often each living key below *prefix* was written since it was created."""
        body = {"key": _encode(prefix), "range_end": _encode(_after(prefix)), "keys_only": True}
        rows = self._post("/v3/kv/range", body).get("kvs", [])
        return {_decode(row["key"]): int(row["version"]) for row in rows}

    def writes_since(self, revision: int, prefix: str = "") -> Counter[str]:
        """Writes after *revision* up to now by key, deletions included; of keys below *prefix*. Reads etcd's own history."""
        last = self.revision()
        counts: Counter[str] = Counter()
        if last <= revision:
            return counts
        request = {"create_request": {"key": _EVERYTHING, "range_end": _EVERYTHING, "start_revision": str(revision + 1)}}
        with self._open("/v3/watch", request) as answer:
            for line in answer:
                result = json.loads(line)["result"]
                if result.get("canceled"):
                    raise ValueError(f"etcd cannot tell the writes since {revision}: {result.get('cancel_reason', 'compacted')}")
                for event in result.get("events", []):
                    if int(event["kv"]["mod_revision"]) > last:
                        return counts
                    key = _decode(event["kv"]["key"])
                    if key.startswith(prefix):
                        counts[key] += 1
                    if int(event["kv"]["mod_revision"]) == last:
                        return counts  # each revision is a write of one key, or a transaction that no one here makes
        raise ValueError("etcd ended the watch early")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with self._open(path, body) as answer:
            return json.load(answer)

    def _open(self, path: str, body: dict[str, Any]) -> Any:
        return urllib.request.urlopen(self.endpoint + path, data=json.dumps(body).encode(), timeout=10)


def _after(prefix: str) -> str:
    """The first key after all that start with *prefix* (etcd's convention for a prefix range)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
