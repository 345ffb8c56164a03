"""One line for each request for a stream, whatever became of it: `audit outcome=allowed user="..." verb=create ...`. Values are quoted."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

_LOG = logging.getLogger("skerry.audit")
_LONGEST = 512


@dataclass(slots=True)
class Entry:
    """What is known of a request; it grows while the request is looked at."""

    namespace: str
    name: str
    subresource: str
    method: str
    source: str
    user: str = ""
    groups: tuple[str, ...] = ()
    verb: str = ""
    uid: str = ""
    node: str = ""
    command: tuple[str, ...] = field(default=())

    def write(self, outcome: str, *, reason: str = "") -> None:
        """Say that it was `allowed`, `refused` or `failed`."""
        _LOG.info("audit %s", render(self, outcome, reason))


def render(entry: Entry, outcome: str, reason: str) -> str:
    """The line; nothing that a caller chose can end it or look like another field."""
    values = {
        "outcome": outcome, "user": entry.user, "groups": ",".join(entry.groups), "verb": entry.verb, "method": entry.method,
        "resource": f"sandboxes/{entry.subresource}", "namespace": entry.namespace, "name": entry.name, "uid": entry.uid, "node": entry.node,
        "command": " ".join(entry.command), "source": entry.source, "reason": reason,
    }  # fmt: skip
    return " ".join(f"{key}={json.dumps(value[:_LONGEST])}" for key, value in values.items() if value)
