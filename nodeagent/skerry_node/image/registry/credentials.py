"""Credentials as Docker keeps them (`config.json`, Secrets of type kubernetes.io/dockerconfigjson), each for one exact host. Pure.

They live in memory only: no repr, no log, no file shows one.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skerry_node.image.registry.errors import InvalidRegistryConfig

MAX_CONFIG_BYTES = 1 << 20
"""A Secret's own bound."""
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_SCHEME = re.compile(r"^https?://")
_API_PATH = re.compile(r"/v[12]$")


@dataclass(frozen=True, slots=True)
class Credential:
    """What one host is told: a name and a password, or a token that buys tokens, or one that opens at once."""

    host: str
    path: str = ""
    """Repositories below this path only; empty: all of the host."""
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def fits(self, host: str, repository: str) -> bool:
        """Whether it was given for this host (with its port) and repository."""
        return _host(host) == self.host and (not self.path or f"{repository}/".startswith(f"{self.path}/"))

    def fingerprint(self) -> bytes:
        """What tells it from others; to be hashed with a key before it is kept."""
        parts = (self.host, self.path, self.username, self.password, self.identity_token, self.registry_token)
        return json.dumps(parts).encode()


def parse(content: bytes, *, source: str) -> tuple[Credential, ...]:
    """The credentials in a Docker config. *source* names it in errors, which never repeat its content. Raises InvalidRegistryConfig."""
    try:
        raw = json.loads(content) if len(content) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        raw = None
    auths = raw.get("auths", {}) if isinstance(raw, Mapping) else None
    if not isinstance(auths, Mapping):
        raise InvalidRegistryConfig(f'{source} is no Docker config: write {{"auths": {{"HOST": {{"username": ..., "password": ...}}}}}}')
    return tuple(_parse_one(key, value, source) for key, value in auths.items())


def choose(credentials: Iterable[Credential], host: str, repository: str) -> tuple[Credential, ...]:
    """Those for *host* and *repository*, the closest first, each once."""
    found = dict.fromkeys(each for each in credentials if each.fits(host, repository))
    return tuple(sorted(found, key=lambda each: -len(each.path)))


def _parse_one(key: str, value: Any, source: str) -> Credential:
    if not isinstance(value, Mapping):
        raise InvalidRegistryConfig(f"{source}: auths.{key[:100]} must be an object")
    parts = {name: value.get(name) or "" for name in ("username", "password", "auth", "identitytoken", "registrytoken")}
    if not all(isinstance(part, str) for part in parts.values()):
        raise InvalidRegistryConfig(f"{source}: auths.{key[:100]} must hold text")
    username, password = parts["username"], parts["password"]
    if not username and parts["auth"]:
        username, password = _decode(parts["auth"], key, source)
    host, _, path = _API_PATH.sub("", _SCHEME.sub("", key).rstrip("/")).partition("/")
    return Credential(
        host=_host(host), path=path.strip("/"), username=username, password=password,
        identity_token=parts["identitytoken"], registry_token=parts["registrytoken"],
    )  # fmt: skip


def _decode(auth: str, key: str, source: str) -> tuple[str, str]:
    try:
        username, separator, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        separator = ""
    if not separator:
        raise InvalidRegistryConfig(f"{source}: auths.{key[:100]}.auth must be base64 of NAME:PASSWORD")
    return username, password.rstrip("\0")


def _host(text: str) -> str:
    """One name for a host; Docker Hub has several, and 443 is no news."""
    host = text.lower().removesuffix(":443")
    return "docker.io" if host in _HUB_NAMES else host
