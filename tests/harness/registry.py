"""Debian's docker-registry on loopback, filled by skopeo: plain or with TLS, open, with passwords or with tokens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping

import yaml

from tests.harness import claims, tokens
from tests.harness.agents import wait_for
from tests.harness.processes import Process

PROGRAM = "/usr/bin/docker-registry"


class Registry:
    """A running registry. *users* by name and password; *token_server* has them ask there; *tls* is an authority, certificate and key by path."""

    def __init__(
        self, directory: str, *, users: Mapping[str, str] | None = None, token_server: tokens.TokenServer | None = None,
        tls: tuple[str, str, str] | None = None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.users = dict(users or {})
        self.tls = tls
        self.port = claims.claim_port()
        self.token_server = token_server
        self._process: Process | None = None
        os.makedirs(directory, exist_ok=True)

    @property
    def host(self) -> str:
        """What a reference begins with."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def start(self) -> None:
        """Start it and wait until it answers; on the port of last time."""
        path = os.path.join(self.directory, "config.yml")
        with open(path, "w", encoding="utf-8") as file:
            yaml.safe_dump(self._config(), file)
        self._process = Process([PROGRAM, "serve", path], log_path=os.path.join(self.directory, "registry.log"))
        wait_for(self._process, "the registry listening", self._is_listening)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def pause(self) -> None:
        """Let it answer nothing more, as a host does that hangs."""
        assert self._process is not None
        self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send(signal.SIGCONT)

    def push(self, source: str, name: str, *flags: str) -> str:
        """Copy *source* (skopeo's: oci:DIR, ...) to NAME here, as the first user where there are any; returns the reference."""
        reference = f"{self.host}/{name}"
        credentials = [f"--dest-creds={user}:{password}" for user, password in list(self.users.items())[:1]]
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *credentials, *flags, source, f"docker://{reference}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"skopeo: {done.stderr[-1000:]}")
        return reference

    def docker_config(self, user: str, password: str) -> dict[str, object]:
        """A Docker config with one credential for this host."""
        return {"auths": {self.host: {"username": user, "password": password}}}

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": os.path.join(self.directory, "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host, **({"tls": {"certificate": self.tls[1], "key": self.tls[2]}} if self.tls else {})},
        }
        if self.token_server is not None:
            config["auth"] = {
                "token": {
                    "realm": self.token_server.url, "service": tokens.SERVICE, "issuer": tokens.ISSUER,
                    "rootcertbundle": self.token_server.certificate_path,
                }
            }  # fmt: skip
        elif self.users:
            path = os.path.join(self.directory, "htpasswd")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(_run("htpasswd", "-Bbn", user, password) for user, password in self.users.items())
            config["auth"] = {"htpasswd": {"realm": "skerry tests", "path": path}}
        return config

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.contextmanager
def running(directory: str, *, users: Mapping[str, str] | None = None, with_tokens: bool = False, with_tls: bool = False) -> Iterator[Registry]:
    """A registry for the time of a block; its token server, if it has one, is its `token_server`."""
    os.makedirs(directory, exist_ok=True)
    server = tokens.TokenServer(directory, users or {}) if with_tokens else None
    registry = Registry(directory, users=users, token_server=server, tls=tokens.make_tls(directory) if with_tls else None)
    try:
        registry.start()
        yield registry
    finally:
        registry.stop()
        if server is not None:
            server.stop()


def write_hosts(directory: str, host: str, text: str) -> str:
    """Write DIRECTORY/HOST/hosts.toml; returns *directory*."""
    os.makedirs(os.path.join(directory, host), exist_ok=True)
    with open(os.path.join(directory, host, "hosts.toml"), "w", encoding="utf-8") as file:
        file.write(text)
    return directory


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
