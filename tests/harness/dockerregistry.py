"""Debian's docker-registry on loopback, plain http, with or without a password."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.harness import claims
from tests.harness.processes import Process

USER, PASSWORD = "alice", "correct horse"


@dataclass(frozen=True, slots=True)
class Served:
    """A running registry: *host* with its port."""

    host: str
    directory: str

    def write_auth(self, path: str) -> str:
        """A Docker config for it."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"auths": {self.host: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}, file)
        return path


@contextlib.contextmanager
def served(directory: str, *, has_password: bool = False) -> Iterator[Served]:
    """A registry with its blobs in *directory*; *has_password*: only USER with PASSWORD gets in."""
    binary = shutil.which("docker-registry")
    assert binary is not None, "apt-get install docker-registry"
    os.makedirs(directory, exist_ok=True)
    port = claims.claim_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": os.path.join(directory, "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "tests"},
    }
    if has_password:
        with open(os.path.join(directory, "htpasswd"), "w", encoding="utf-8") as file:
            file.write(f"{USER}:{_hash(PASSWORD)}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": file.name}}
    path = os.path.join(directory, "config.yml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    process = Process([binary, "serve", path], log_path=os.path.join(directory, "log"))
    try:
        _wait(process, port)
        yield Served(f"127.0.0.1:{port}", directory)
    finally:
        process.stop()


def _hash(password: str) -> str:
    """Bcrypt, the only one that the registry takes, from libcrypt."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    found: bytes | None = crypt(password.encode(), b"$2y$05$" + b"." * 22)
    assert found is not None
    return found.decode()


def _wait(process: Process, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.is_running:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    with open(process.log_path, encoding="utf-8", errors="replace") as file:
        raise TimeoutError(f"docker-registry does not answer: {file.read()[-2000:]}")
