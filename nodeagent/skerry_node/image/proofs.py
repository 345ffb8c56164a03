"""Who has proved access to an image: keyed hashes of credentials, one small record for each manifest digest.

What counts as a proof, and when one is asked for, is decided where images are pulled. A hash says nothing without the store's own key.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import threading
from collections.abc import Iterable

_MAX_KEYS = 1024
"""Credentials remembered for one image; the oldest go first, and have to prove it again."""
_KEY_BYTES = 32


class Proofs:
    """The records below *root*. Any thread may call."""

    def __init__(self, root: str) -> None:
        self._root = root
        os.makedirs(root, mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        for name in os.listdir(root):
            if name.endswith(".tmp"):
                os.unlink(os.path.join(root, name))
        self._key = self._ensure_key()

    def hash(self, credential: bytes) -> str:
        """The keyed hash of *credential*, which may be kept."""
        return hmac.digest(self._key, credential, "sha256").hex()

    def read(self, digest: str) -> tuple[str, ...]:
        """The hashes that have proved access to the image of this manifest digest; none when the record is absent or damaged."""
        try:
            with open(self._path(digest), encoding="utf-8") as file:
                raw = json.load(file)
        except (FileNotFoundError, ValueError, RecursionError):
            return ()
        if not isinstance(raw, list):
            return ()
        return tuple(each for each in raw if isinstance(each, str))

    def add(self, digest: str, hashes: Iterable[str]) -> None:
        """Remember that these have proved access."""
        with self._lock:
            known = self.read(digest)
            merged = list(dict.fromkeys([*known, *hashes]))[-_MAX_KEYS:]
            if merged != list(known):
                self._write(self._path(digest), json.dumps(merged).encode())

    def keep(self, digests: Iterable[str]) -> None:
        """Remove the records of every image but these."""
        wanted = {os.path.basename(self._path(digest)) for digest in digests}
        with self._lock:
            for name in os.listdir(self._root):
                if name.endswith(".json") and name not in wanted:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self._root, name))

    def _path(self, digest: str) -> str:
        return os.path.join(self._root, digest.removeprefix("sha256:") + ".json")

    def _ensure_key(self) -> bytes:
        """A key that is lost or cut is made anew: then all have to prove access again."""
        path = os.path.join(self._root, "key")
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            key = file.read()
            if len(key) == _KEY_BYTES:
                return key
        key = os.urandom(_KEY_BYTES)
        self._write(path, key)
        return key

    def _write(self, path: str, content: bytes) -> None:
        with open(path + ".tmp", "wb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".tmp", path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
