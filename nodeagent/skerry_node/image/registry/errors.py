"""What can go wrong with a registry.

ImageError
└── RegistryError
    ├── RegistryUnavailable   it does not answer, breaks off, or has no time now
    ├── AccessDenied          it wants other credentials
    ├── NotInRegistry         it has nothing of that name
    ├── PlatformMissing       it has the image, but not for this machine
    ├── RegistryLied          what it sends is not what it promised
    ├── AddressRefused        it, or where it sends us, lies where images may not come from
    └── InvalidRegistryConfig a hosts.toml or a set of credentials that cannot be read
"""

from __future__ import annotations

import re

from skerry_node.image.errors import ImageError

_MAX_WORDS = 300
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\uffff]+")


class RegistryError(ImageError):
    """Base of all; the message names the registry and repeats its words."""

    reason = "ImagePullFailed"


class RegistryUnavailable(RegistryError):
    """Worth another try. *retry_after_seconds* is what the registry asked for, if it did."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AccessDenied(RegistryError):
    """Status 401 or 403, or nothing that could be told without giving a credential to a stranger."""


class NotInRegistry(RegistryError):
    """Status 404: the repository, the tag, the digest."""


class PlatformMissing(RegistryError):
    """The index lists other platforms; the message names them."""


class RegistryLied(RegistryError):
    """Digest, size, range or media type are wrong. Another endpoint may tell the truth."""


class AddressRefused(RegistryError):
    """The address belongs to this machine, its network or its cloud, and the operator has not named the host."""


class InvalidRegistryConfig(RegistryError):
    """The message names the file and the key."""


def quote(text: str) -> str:
    """A stranger's words, fit for a message: one line, printable, bounded."""
    line = _UNPRINTABLE.sub(" ", text).strip()
    return line if len(line) <= _MAX_WORDS else line[:_MAX_WORDS] + "..."
