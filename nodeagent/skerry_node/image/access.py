"""Who may use an image that is here: those who have proved access to its repository, and all when it was shown to anybody or made here.

The store remembers keyed hashes (`proofs`), for each manifest what opened which repository. Others ask the registry first; when that is away,
the image is closed to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from skerry_node.image.reference import Reference
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.store import Image, Store


def is_proved(store: Store, image: Image, reference: Reference, credentials: Iterable[Credential]) -> bool:
    """Whether one of *credentials*, or none at all, has opened *reference*'s repository for this very image. Reads one small file."""
    if image.is_local:
        return True
    known = store.proofs.read(image.digest)
    return any(_hash(store, reference, each) in known for each in (None, *credentials))


def is_public(store: Store, image: Image, reference: Reference) -> bool:
    """Whether no credential is needed."""
    return is_proved(store, image, reference, ())


def remember(store: Store, digest: str, reference: Reference, credential: Credential | None) -> None:
    """Note that *credential* (None: nothing) opened *reference*'s repository for the manifest of *digest*. Blocks for the disk."""
    store.proofs.add(digest, [_hash(store, reference, credential)])


def _hash(store: Store, reference: Reference, credential: Credential | None) -> str:
    told = credential.fingerprint().decode() if credential is not None else None
    return store.proofs.hash(json.dumps([reference.domain, reference.path, told]).encode())
