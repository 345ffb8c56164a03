"""What a registry says when it wants credentials: the header WWW-Authenticate. Pure. Source: RFC 9110, 11.6.1; distribution's token spec."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from yarl import URL

from skerry_node.image.registry import addresses
from skerry_node.image.registry.hosts import Endpoint

_MAX_BYTES = 8192
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_WORD})(?:\s+|$)")
_PARAMETER = re.compile(rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))\s*(?:,\s*|$)')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in: `basic`, or `bearer` with the server that gives tokens."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def find(self, name: str) -> str | None:
        """A parameter's value."""
        return next((value for key, value in self.parameters if key == name), None)


def parse(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in one or several headers; what cannot be read is left out."""
    found = []
    for header in headers:
        rest = header[:_MAX_BYTES].strip()
        while scheme := _SCHEME.match(rest):
            rest = rest[scheme.end() :]
            parameters = []
            while parameter := _PARAMETER.match(rest):
                name, quoted, plain = parameter.groups()
                parameters.append((name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain))
                rest = rest[parameter.end() :]
            found.append(Challenge(scheme[1].lower(), tuple(parameters)))
    return tuple(found)


def parse_realm(challenge: Challenge, endpoint: Endpoint) -> URL | None:
    """Where tokens are given; None when the realm is no URL, or a plain one that a host with TLS sends us to."""
    try:
        realm = URL(challenge.find("realm") or "")
    except ValueError:
        return None
    schemes = {"https"} if endpoint.url.scheme == "https" else {"http", "https"}
    return realm if realm.scheme in schemes and realm.host and not realm.user else None


def may_be_told(realm: URL, endpoint: Endpoint, *, named: Container[str]) -> bool:
    """Whether the credential for *endpoint* may be told to *realm*.

    Its own host; a host that the operator named; over TLS, a sibling below the same domain (registry-1.docker.io and auth.docker.io).
    """
    if addresses.origin(realm) == addresses.origin(endpoint.url) or addresses.origin(realm) in named:
        return True
    if realm.scheme != "https" or endpoint.url.scheme != "https":
        return False
    ours, theirs = _parent(endpoint.url), _parent(realm)
    return ours is not None and ours == theirs


def _parent(url: URL) -> str | None:
    """Give the last two labels of a name, three where the last two are short (co.uk); None for an address or a bare name."""
    host = (url.host or "").lower().rstrip(".")
    labels = host.split(".")
    if ":" in host or labels[-1].isdigit() or len(labels) < 2:
        return None
    count = 3 if len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-count:])
