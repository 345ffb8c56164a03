"""Who calls: what the API server says in its headers, believed only from its proxy client certificate. Pure.

The header names and the certificate's authority come from the ConfigMap `kube-system/extension-apiserver-authentication`, which
kube-apiserver writes.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skerry_operator.gateway.errors import Unauthenticated

CONFIG_PATH = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
_MAX_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Config:
    """What makes a proxy credible."""

    ca_pem: str
    allowed_names: frozenset[str]
    """Common names; empty: every certificate of the authority."""
    user_headers: tuple[str, ...]
    uid_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """A caller, as authenticated by the API server."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


def parse_config(data: Mapping[str, str]) -> Config:
    """From the ConfigMap's data. Raises ValueError when the aggregation layer is not set up."""
    ca_pem = data.get("requestheader-client-ca-file", "")
    users = _names(data, "requestheader-username-headers")
    if "BEGIN CERTIFICATE" not in ca_pem or not users:
        raise ValueError("the API server has no aggregation layer: give kube-apiserver --requestheader-client-ca-file and its like")
    return Config(
        ca_pem=ca_pem,
        allowed_names=frozenset(_names(data, "requestheader-allowed-names")),
        user_headers=users,
        uid_headers=_names(data, "requestheader-uid-headers"),
        group_headers=_names(data, "requestheader-group-headers"),
        extra_prefixes=_names(data, "requestheader-extra-headers-prefix"),
    )


def identify(config: Config, certificate: Mapping[str, Any] | None, headers: Iterable[tuple[str, str]]) -> User:
    """The caller. *certificate* is ssl's dictionary of the verified peer certificate. Raises Unauthenticated.

    A user header that occurs twice is refused: two readers could take different ones.
    """
    if not certificate:
        raise Unauthenticated("no client certificate: only the API server may call here; ask it")
    name = common_name(certificate)
    if config.allowed_names and name not in config.allowed_names:
        raise Unauthenticated(f"the client certificate of {name} is not the API server's")
    by_name: dict[str, list[str]] = {}
    for key, value in headers:
        by_name.setdefault(key.lower(), []).append(value)
    users = _first(by_name, config.user_headers)
    if len(users) != 1 or not users[0]:
        raise Unauthenticated("the API server names no user")
    groups = tuple(group for header in config.group_headers for group in by_name.get(header.lower(), ()))
    if len(groups) > _MAX_GROUPS:
        raise Unauthenticated(f"more than {_MAX_GROUPS} groups")
    uids = _first(by_name, config.uid_headers)
    return User(name=users[0], uid=uids[0] if uids else "", groups=groups, extra=_extra(config, by_name))


def common_name(certificate: Mapping[str, Any]) -> str:
    """The common name of ssl's dictionary; empty when there is none."""
    return next((str(value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), "")


def _extra(config: Config, by_name: Mapping[str, Sequence[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Extras by key; keys come in lower case and percent-encoded, as kube-apiserver sends them."""
    found: dict[str, tuple[str, ...]] = {}
    for prefix in config.extra_prefixes:
        for name, values in by_name.items():
            if name.startswith(prefix.lower()):
                key = urllib.parse.unquote(name[len(prefix) :])
                found[key] = (*found.get(key, ()), *values)
    return tuple(sorted(found.items()))


def _first(by_name: Mapping[str, list[str]], headers: Iterable[str]) -> list[str]:
    return next((by_name[header.lower()] for header in headers if header.lower() in by_name), [])


def _names(data: Mapping[str, str], key: str) -> tuple[str, ...]:
    found = json.loads(data.get(key) or "[]")
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{key} is no list of texts")
    return tuple(found)
