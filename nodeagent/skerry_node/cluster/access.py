"""How to reach the API server: a kubeconfig's current context, or the pod's own account.

Read here and not by the Kubernetes client: importing it costs an agent 24 MB and half a second (measured). It is still
asked, and only then imported, where a kubeconfig names a program or a provider for its credentials.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from skerry_node import errors

_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
_REREAD_SECONDS = 60.0
"""A projected token lives an hour and is replaced at 80 % of that; client-go rereads each minute too."""


class Credential:
    """The Authorization header: a text, or a file that others replace from time to time."""

    def __init__(self, text: str = "", *, path: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._text = text
        self._path = path
        self._clock = clock
        self._read_at = float("-inf")

    def header(self) -> str:
        """The header's value; empty when certificates say who we are."""
        if self._path is not None and self._clock() - self._read_at > _REREAD_SECONDS:
            with contextlib.suppress(OSError), open(self._path, encoding="utf-8") as file:  # the last one may still hold
                self._text = f"Bearer {file.read().strip()}"
            self._read_at = self._clock()
        return self._text

    def forget(self) -> None:
        """It was refused: read the file again at the next call."""
        self._read_at = float("-inf")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is, and who we are."""

    server: str
    tls: ssl.SSLContext | None = None
    credential: Credential = field(default_factory=Credential)
    server_name: str | None = None
    proxy: str | None = None


async def load(kubeconfig: str | None, *, environ: Mapping[str, str] = os.environ) -> Access:
    """From *kubeconfig*, else $KUBECONFIG, else the pod's account, else ~/.kube/config. Raises errors.Unsupported."""
    named = kubeconfig or environ.get("KUBECONFIG")
    home = os.path.join(environ.get("HOME", "/root"), ".kube", "config")
    if named is None and "KUBERNETES_SERVICE_HOST" in environ:
        return _in_cluster(environ)
    paths = (named or home).split(os.pathsep)
    path = next((each for each in paths if os.path.exists(each)), paths[0])
    if not os.path.exists(path):
        where = f"{path} does not exist" if named else "no kubeconfig is given and this is no pod"
        raise errors.Unsupported(f"no way to an API server: {where}; give --kubeconfig, or --standalone to run without one")
    try:
        return await _from_kubeconfig(path)
    except (KeyError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        raise errors.Unsupported(f"kubeconfig {path} cannot be used: {error!r}") from error


def _in_cluster(environ: Mapping[str, str]) -> Access:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        tls = ssl.create_default_context(cafile=f"{_ACCOUNT_DIR}/ca.crt")
    except OSError as error:
        raise errors.Unsupported(f"the pod's account cannot be read: {error}; mount the service account's token") from error
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Access(server=server, tls=tls, credential=Credential(path=f"{_ACCOUNT_DIR}/token"))


async def _from_kubeconfig(path: str) -> Access:
    raw = _parse(path)
    context = _named(raw["contexts"], raw["current-context"])["context"]
    cluster = _named(raw["clusters"], context["cluster"])["cluster"]
    user = _named(raw["users"], context["user"])["user"] if context.get("user") else {}
    if "exec" in user or "auth-provider" in user:
        return await _through_library(path)
    beside = os.path.dirname(os.path.abspath(path))
    server = str(cluster["server"]).rstrip("/")
    return Access(
        server=server,
        tls=_tls(cluster, user, beside) if server.startswith("https") else None,
        credential=_credential(user, beside),
        server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
    )


def _parse(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def _named(entries: list[Any], name: str) -> Any:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise ValueError(f"nothing is named {name}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], beside: str) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", beside)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go: whatever is given as a root is one
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _content(user, "client-certificate", beside), _content(user, "client-key", beside)
    if certificate and key:
        with tempfile.NamedTemporaryFile(prefix="skerry-") as file:  # 0600; OpenSSL takes paths only
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _content(section: Mapping[str, Any], name: str, beside: str) -> bytes | None:
    if section.get(f"{name}-data"):
        return base64.b64decode(section[f"{name}-data"])
    if section.get(name):
        with open(os.path.join(beside, section[name]), "rb") as file:
            return file.read()
    return None


def _credential(user: Mapping[str, Any], beside: str) -> Credential:
    if user.get("tokenFile"):
        return Credential(path=os.path.join(beside, user["tokenFile"]))
    if user.get("token"):
        return Credential(f"Bearer {user['token']}")
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        return Credential(f"Basic {base64.b64encode(pair.encode()).decode()}")
    return Credential()


async def _through_library(path: str) -> Access:
    """Credentials by exec plugin or provider, taken once: a person's session, not a service."""
    from kubernetes.aio import client, config  # noqa: PLC0415 - 24 MB that few agents need

    loaded = client.Configuration()
    try:
        await config.load_kube_config(path, client_configuration=loaded, persist_config=False)
    except config.ConfigException as error:
        raise ValueError(str(error)) from error
    tls = ssl.create_default_context(cafile=loaded.ssl_ca_cert)
    if not loaded.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if loaded.cert_file:
        tls.load_cert_chain(loaded.cert_file, loaded.key_file)
    token = await loaded.get_api_key_with_prefix("BearerToken") or ""
    return Access(server=str(loaded.host), tls=tls, credential=Credential(token), server_name=loaded.tls_server_name, proxy=loaded.proxy)
