"""How to reach the API server: a kubeconfig's context, or the pod's own account.

Read here, as kubectl does, without the Kubernetes client: importing that takes longer than most commands.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skerry.errors import SkerryError

if TYPE_CHECKING:
    import ssl

ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
_EXEC_KIND = "ExecCredential"
_PLUGIN_SECONDS = 60.0


class BadKubeconfig(SkerryError):
    """There is none, or it cannot be used; the message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is, who we are, and which namespace is meant when none is named."""

    server: str
    namespace: str = "default"
    authority: bytes | None = None
    """PEM; None: what this machine trusts."""
    is_insecure: bool = False
    server_name: str | None = None
    authorization: str | None = None
    """The header's value."""
    certificate: bytes | None = None
    """Ours with its key, PEM."""

    def tls(self) -> ssl.SSLContext | None:
        """For connections; None for plain HTTP, as through `kubectl proxy`."""
        if not self.server.startswith("https"):
            return None
        import ssl  # noqa: PLC0415 - `skerry --help` needs none

        context = ssl.create_default_context(cadata=self.authority.decode() if self.authority else None)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go: whatever is given as a root is one
        if self.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)  # OpenSSL takes paths only
            try:
                os.write(descriptor, self.certificate)
                context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
        return context


def is_configured(*, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a cluster is meant when nothing is said: KUBECONFIG, ~/.kube/config, or a pod's account."""
    return bool(environ.get("KUBECONFIG")) or os.path.exists(_home(environ)) or _is_pod(environ)


def load(path: str | None = None, *, context: str | None = None, environ: Mapping[str, str] = os.environ) -> Access:
    """From *path*, else $KUBECONFIG (several, the first that has a name wins), else ~/.kube/config, else the pod's account. Raises BadKubeconfig."""
    named = path or environ.get("KUBECONFIG")
    paths = [each for each in (named or _home(environ)).split(os.pathsep) if each]
    present = [each for each in paths if os.path.exists(each)]
    if not present:
        if named is None and context is None and _is_pod(environ):
            return _pod(environ)
        raise BadKubeconfig(f"no kubeconfig: {paths[0]} does not exist", hint="name one: --kubeconfig FILE; or reach this machine's agent: --local")
    try:
        return _from_documents([(each, _parse(each)) for each in present], context, environ)
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise BadKubeconfig(f"kubeconfig {', '.join(present)}: {error}", hint="see it: kubectl config view") from error


def _parse(path: str) -> Any:
    import yaml  # noqa: PLC0415 - as ssl above

    with open(path, encoding="utf-8") as file:
        try:
            return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506 - both are safe
        except yaml.YAMLError as error:
            raise ValueError(f"not YAML: {error}") from error


def _from_documents(documents: list[tuple[str, Any]], context_name: str | None, environ: Mapping[str, str]) -> Access:
    wanted = context_name or next((raw["current-context"] for _, raw in documents if raw.get("current-context")), None)
    if wanted is None:
        raise ValueError("no current-context; name one: --context NAME")
    _, context = _find(documents, "contexts", "context", wanted)
    cluster_dir, cluster = _find(documents, "clusters", "cluster", context["cluster"])
    user_dir, user = _find(documents, "users", "user", context["user"]) if context.get("user") else ("", {})
    if cluster.get("proxy-url"):
        raise ValueError("proxy-url is not supported; reach the API server without one")
    if user.get("auth-provider"):
        raise ValueError(f"user {context['user']}: auth-provider is gone from kubectl too; use an exec plugin")
    if user.get("exec"):
        user = {**user, **_run_plugin(user["exec"], user_dir, environ)}
    certificate, key = _content(user, "client-certificate", user_dir), _content(user, "client-key", user_dir)
    return Access(
        server=str(cluster["server"]).rstrip("/"),
        namespace=context.get("namespace") or "default",
        authority=_content(cluster, "certificate-authority", cluster_dir),
        is_insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name"),
        authorization=_authorization(user, user_dir),
        certificate=certificate + b"\n" + key if certificate and key else None,
    )


def _find(documents: list[tuple[str, Any]], section: str, kind: str, name: str) -> tuple[str, Any]:
    """The folder of the file that has it, and the entry."""
    for path, raw in documents:
        for entry in raw.get(section) or ():
            if entry["name"] == name:
                return os.path.dirname(os.path.abspath(path)), entry.get(kind) or {}
    known = sorted(entry["name"] for _, raw in documents for entry in raw.get(section) or ())
    raise ValueError(f"no {kind} {name!r}; there is: {', '.join(known) or 'none'}")


def _content(section: Mapping[str, Any], name: str, beside: str) -> bytes | None:
    if section.get(f"{name}-data"):
        return base64.b64decode(section[f"{name}-data"])
    if section.get(name):
        with open(os.path.join(beside, section[name]), "rb") as file:
            return file.read()
    return None


def _authorization(user: Mapping[str, Any], beside: str) -> str | None:
    if user.get("token"):
        return f"Bearer {user['token']}"
    if user.get("tokenFile"):
        with open(os.path.join(beside, user["tokenFile"]), encoding="utf-8") as file:
            return f"Bearer {file.read().strip()}"
    if user.get("username"):
        return "Basic " + base64.b64encode(f"{user['username']}:{user.get('password', '')}".encode()).decode()
    return None


def _run_plugin(plugin: Mapping[str, Any], beside: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """What a client-go credential plugin gives; it may ask the person on the terminal. Raises ValueError."""
    command = str(plugin["command"])
    if os.path.dirname(command):
        command = os.path.join(beside, command)  # as client-go: relative to the file; a bare name is looked up by PATH
    version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
    info = {"apiVersion": version, "kind": _EXEC_KIND, "spec": {"interactive": os.isatty(0)}}
    environment = {**environ, **{each["name"]: each["value"] for each in plugin.get("env") or ()}, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    try:
        done = subprocess.run(
            [command, *(plugin.get("args") or ())], stdout=subprocess.PIPE, env=environment, check=True, timeout=_PLUGIN_SECONDS
        )  # fmt: skip
        status = json.loads(done.stdout)["status"]
    except FileNotFoundError as error:
        raise ValueError(f"credential plugin {command} is not installed; {plugin.get('installHint') or 'install it'}") from error
    except (subprocess.SubprocessError, ValueError, LookupError) as error:
        raise ValueError(f"credential plugin {command} gave no credential: {error}") from error
    given = {"token": status.get("token")}
    for name, key in (("client-certificate-data", "clientCertificateData"), ("client-key-data", "clientKeyData")):
        if status.get(key):
            given[name] = base64.b64encode(status[key].encode()).decode()
    return {key: value for key, value in given.items() if value}


def _home(environ: Mapping[str, str]) -> str:
    return os.path.join(environ.get("HOME", "/root"), ".kube", "config")


def _is_pod(environ: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ and os.path.exists(f"{ACCOUNT_DIR}/token")


def _pod(environ: Mapping[str, str]) -> Access:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")

    def read(name: str) -> str:
        with open(f"{ACCOUNT_DIR}/{name}", encoding="utf-8") as file:
            return file.read().strip()

    try:
        return Access(
            server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            namespace=read("namespace"),
            authority=read("ca.crt").encode(),
            authorization=f"Bearer {read('token')}",
        )
    except OSError as error:
        raise BadKubeconfig(f"the pod's account cannot be read: {error}") from error
