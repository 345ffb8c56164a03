"""Image references: Docker's grammar, which OCI's distribution-spec follows. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from skerry_node.image.errors import InvalidReference

MAX_LENGTH = 512
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?P<name>(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*))"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[a-f0-9]{64}))?",
    re.ASCII,
)
_DEFAULT_DOMAIN, _DEFAULT_NAMESPACE, _DEFAULT_TAG = "docker.io", "library", "latest"


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole reference: domain and path are always there, and a tag or a digest."""

    domain: str
    path: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.domain}/{self.path}{tag}{digest}"


def parse(text: str) -> Reference:
    """*text* as a whole reference, with Docker's defaults. Raises InvalidReference."""
    found = _REFERENCE.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise InvalidReference(f"{text[:80]!r} is no image reference; write for example docker.io/library/busybox:latest")
    domain, path = found["domain"], found["path"]
    if domain is not None and not (re.search(r"[.:\[]", domain) or domain == "localhost"):
        domain, path = None, f"{domain}/{path}"
    if domain is None or domain == "index.docker.io":
        domain = _DEFAULT_DOMAIN
    if domain == _DEFAULT_DOMAIN and "/" not in path:
        path = f"{_DEFAULT_NAMESPACE}/{path}"
    if path != path.lower():
        raise InvalidReference(f"{text[:80]!r}: write the repository in lower case")
    tag = found["tag"] or (None if found["digest"] else _DEFAULT_TAG)
    return Reference(domain=domain, path=path, tag=tag, digest=found["digest"])
