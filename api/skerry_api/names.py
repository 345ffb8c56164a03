"""Names that the API server, operator and agents share, and the grammar of Kubernetes names."""

from __future__ import annotations

import re

GROUP, VERSION = "skerry.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
SANDBOX_KIND, SANDBOX_PLURAL = "Sandbox", "sandboxes"
IMAGE_KIND, IMAGE_PLURAL = "SandboxImage", "sandboximages"
NODE_KIND, NODE_PLURAL = "SandboxNode", "sandboxnodes"
FINALIZER = f"{GROUP}/node-cleanup"
HOSTNAME_LABEL = "kubernetes.io/hostname"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_UID = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]{0,62}")


def is_dns_label(text: str) -> bool:
    """RFC 1123 label, at most 63 characters."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """RFC 1123 subdomain, at most 253 characters: the name of an object."""
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def is_env_name(text: str) -> bool:
    """A name that Kubernetes takes for an environment variable."""
    return len(text) <= 256 and _ENV_NAME.fullmatch(text) is not None


def is_uid(text: str) -> bool:
    """Whether *text* can stand in the name of a directory or a cgroup: letters, digits and dashes, at most 63."""
    return _UID.fullmatch(text) is not None
