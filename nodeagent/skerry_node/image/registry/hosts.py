"""Which hosts serve a registry's images: containerd's hosts files, `DIR/HOST/hosts.toml`, and what holds without one.

Source: containerd docs/hosts.md. Read when a pull begins, so a change needs no restart. A host with a file, or that a file lists, is named by
the operator: it may have a private address.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarl import URL

from skerry_node.image.registry import addresses
from skerry_node.image.registry.errors import InvalidRegistryConfig

PULL, RESOLVE, PUSH = "pull", "resolve", "push"
_ALL = frozenset({PULL, RESOLVE, PUSH})
_HUB, _HUB_HOST = "docker.io", "registry-1.docker.io"
_DEFAULT = "_default"
_DOMAIN = re.compile(r"[a-zA-Z0-9.\[\]:-]{1,255}")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]+){3}|\[::1\]")
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Tls:
    """How a host is known: more certificate authorities by file, a client certificate and its key, or no check at all."""

    ca_files: tuple[str, ...] = ()
    client: tuple[tuple[str, str | None], ...] = ()
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host that serves the registry *domain*. *url* is its base; repositories lie at `url/v2/NAME`, or `url/NAME` where *overrides_path*."""

    domain: str
    url: URL
    capabilities: frozenset[str] = _ALL
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    overrides_path: bool = False
    is_named: bool = False
    """Whether the operator named it, so that it is dialed wherever its name leads."""

    @property
    def is_mirror(self) -> bool:
        """Whether it serves another host's images."""
        return self.host not in {self.domain, _HUB_HOST if self.domain == _HUB else self.domain}

    @property
    def host(self) -> str:
        """Host, with the port when there is one: what credentials are kept for."""
        return self.url.authority.lower()


class Hosts:
    """The hosts files below *directory*; None: there are none."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory

    def endpoints(self, domain: str, *, is_named: bool = False) -> tuple[Endpoint, ...]:
        """Who serves *domain*, in the order to ask; *is_named* when the operator himself wrote the reference. Raises InvalidRegistryConfig."""
        found = self._find(domain)
        if found is None:
            return (_default(domain, is_named=is_named),)
        path, is_fallback = found
        return parse(_read_toml(path), domain, path=path, is_named=not is_fallback or is_named)

    def named(self) -> dict[str, Endpoint]:
        """Every host that the operator named, by host:port: where redirects and token realms may lead whatever the address."""
        if self._directory is None:
            return {}
        names = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = [name for name in os.listdir(self._directory) if name != _DEFAULT and _DOMAIN.fullmatch(_domain(name))]
        found: dict[str, Endpoint] = {}
        for name in sorted(names):
            with contextlib.suppress(InvalidRegistryConfig):
                found |= {addresses.origin(endpoint.url): endpoint for endpoint in self.endpoints(_domain(name))}
        return found

    def _find(self, domain: str) -> tuple[str, bool] | None:
        """Find *domain*'s hosts.toml, or the one for all others; a directory with certificates only has none, and is named all the same."""
        if self._directory is None or _DOMAIN.fullmatch(domain) is None or domain.startswith("."):
            return None
        host, _, port = domain.partition(":") if not domain.startswith("[") else (domain, "", "")
        names = [f"{host}_{port}_", domain] if port else [domain]
        for name in [*names, _DEFAULT]:
            directory = os.path.join(self._directory, name)
            if os.path.isdir(directory):
                return os.path.join(directory, "hosts.toml"), name == _DEFAULT
        return None


def parse(raw: Mapping[str, Any], domain: str, *, path: str, is_named: bool) -> tuple[Endpoint, ...]:
    """The endpoints in the hosts file *raw*, read from *path*: its hosts in order, then its server. Raises InvalidRegistryConfig."""
    directory = os.path.dirname(path)
    hosts = raw.get("host", {})
    if not isinstance(hosts, Mapping):
        raise InvalidRegistryConfig(f'{path}: host must be tables, as [host."https://mirror.example.com"]')
    found = [_endpoint(each, name, domain, path=path, directory=directory, is_named=True) for name, each in hosts.items()]
    server = raw.get("server")
    if server is not None and not isinstance(server, str):
        raise InvalidRegistryConfig(f"{path}: server must be a URL")
    found.append(_endpoint(raw, server or str(_default(domain, is_named=is_named).url), domain, path=path, directory=directory, is_named=is_named))
    return tuple(found)


def _endpoint(raw: Any, name: str, domain: str, *, path: str, directory: str, is_named: bool) -> Endpoint:
    if not isinstance(raw, Mapping):
        raise InvalidRegistryConfig(f"{path}: [host.{name!r}] must be a table")
    try:
        url = URL(name if "://" in name else f"https://{name}")
    except ValueError as error:
        raise InvalidRegistryConfig(f"{path}: {name!r} is no URL") from error
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string:
        raise InvalidRegistryConfig(f"{path}: {name!r} must be http://HOST or https://HOST")
    capabilities = frozenset(_texts(raw, "capabilities", path)) or _ALL
    if capabilities - _ALL:
        raise InvalidRegistryConfig(f"{path}: capabilities are pull, resolve, push; not {', '.join(sorted(capabilities - _ALL))}")
    headers = raw.get("header", {})
    if not isinstance(headers, Mapping) or not all(isinstance(each, str | list) for each in headers.values()):
        raise InvalidRegistryConfig(f"{path}: header must map names to text")
    return Endpoint(
        domain=domain,
        url=url,
        capabilities=capabilities,
        tls=Tls(
            ca_files=_ca_files(raw, path, directory),
            client=tuple(_client_pair(each, path, directory) for each in _list(raw, "client")),
            skip_verify=raw.get("skip_verify") is True,
        ),
        headers=tuple((key, value if isinstance(value, str) else ", ".join(map(str, value))) for key, value in headers.items()),
        overrides_path=raw.get("override_path") is True,
        is_named=is_named,
    )


def _default(domain: str, *, is_named: bool) -> Endpoint:
    """Where *domain* itself is; plain http on this machine only, as Docker has it."""
    host = _HUB_HOST if domain == _HUB else domain
    scheme = "http" if is_named and _LOOPBACK.fullmatch(re.sub(r":[0-9]+$", "", host)) else "https"
    return Endpoint(domain=domain, url=URL(f"{scheme}://{host}"), is_named=is_named)


def _domain(name: str) -> str:
    return re.sub(r"_([0-9]+)_$", r":\1", name)


def _ca_files(raw: Mapping[str, Any], path: str, directory: str) -> tuple[str, ...]:
    """`ca`, and as Docker has it every .crt of the directory."""
    found = [os.path.join(directory, each) for each in _texts(raw, "ca", path)]
    with contextlib.suppress(FileNotFoundError):
        found += sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".crt"))
    return tuple(dict.fromkeys(found))


def _client_pair(each: Any, path: str, directory: str) -> tuple[str, str | None]:
    pair = [each] if isinstance(each, str) else each
    if not isinstance(pair, list) or not 1 <= len(pair) <= 2 or not all(isinstance(part, str) for part in pair):
        raise InvalidRegistryConfig(f"{path}: client must be files, or pairs of certificate and key")
    certificate, *key = (os.path.join(directory, part) for part in pair)
    return certificate, key[0] if key else None


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    value = raw.get(key, [])
    return value if isinstance(value, list) else [value]


def _texts(raw: Mapping[str, Any], key: str, path: str) -> list[str]:
    values = _list(raw, key)
    if not all(isinstance(each, str) for each in values):
        raise InvalidRegistryConfig(f"{path}: {key} must be text, or a list of texts")
    return values


def _read_toml(path: str) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.loads(file.read(_MAX_FILE_BYTES).decode())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidRegistryConfig(f"{path} cannot be read: {error}") from error
