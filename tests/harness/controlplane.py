"""A real control plane on this machine: etcd and kube-apiserver on loopback, for tests, bench and `make cluster` alike.

    with ControlPlane.start(directory) as plane:
        plane.apply_crds()
        plane.kubectl("get", "sandboxes")

No controllers run: a namespace that is deleted stays, and no namespace gets a default ServiceAccount.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.harness import aggregation, assets, claims
from tests.harness.etcd import Etcd
from tests.harness.processes import Process, ProcessFailed

CRDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "crds")
_READY_SECONDS = 180.0  # 3 s on an idle machine with two cores
_CONNECTS = 6  # of 10 s each
_UNHEARD = re.compile(r"TLS handshake timeout|dial tcp \S+ i/o timeout")
"""How kubectl says that a busy machine has kept it from being heard at all, so that asking again does nothing twice."""
_ISSUER = "https://kubernetes.default.svc"


class ControlPlane:
    """etcd and kube-apiserver with their data in one directory; both die with this process and are waited for by `stop`."""

    address = "127.0.0.1"
    service_range = "10.0.0.0/24"
    fixed_port: int | None = None
    more_flags: tuple[str, ...] = ()
    """Of kube-apiserver."""

    def __init__(self, directory: str, *, programs: assets.Assets, fsync: bool) -> None:
        self.directory = directory
        self.ca_path = os.path.join(directory, "certificates", "apiserver.crt")
        self.kubeconfig = os.path.join(directory, "kubeconfig")
        self._programs = programs
        self._fsync = fsync
        self.token = secrets.token_hex(16)
        client_port, peer_port, port = (claims.claim_port() for _ in range(3))
        self._port = self.fixed_port or port
        self._peer = f"http://127.0.0.1:{peer_port}"
        self.etcd_endpoint = f"http://127.0.0.1:{client_port}"
        self.url = f"https://{self.address}:{self._port}"
        self.etcd = Etcd(self.etcd_endpoint)
        self._processes: dict[str, Process] = {}

    @classmethod
    def start(cls, directory: str, *, fsync: bool = False) -> ControlPlane:
        """Start both in *directory* (made if missing; data and logs stay there) and wait until the API answers.

        With *fsync*, etcd syncs each write as in production; without, only in memory counts: say so beside any number.
        Raises AssetsFailed, ProcessFailed.
        """
        plane = cls(os.path.abspath(directory), programs=assets.ensure(), fsync=fsync)
        try:
            plane._write_files()
            plane._start_etcd()
            plane.start_apiserver()
        except BaseException:
            plane.stop()
            raise
        return plane

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End both and wait. kube-apiserver keeps nothing, so that it need not take its 20 s to say goodbye."""
        self.stop_apiserver()
        etcd = self._processes.pop("etcd", None)
        if etcd is not None:
            etcd.stop()

    def start_apiserver(self) -> None:
        """Start kube-apiserver, on the same port as before, and wait until it answers. Raises ProcessFailed."""
        self._processes["kube-apiserver"] = self._spawn(self._programs.kube_apiserver, self._apiserver_flags())
        self._wait("ready", lambda: self.read("/readyz") == b"ok")
        # in its first second the server answers 503 here, and kubectl apply needs it
        self._wait("openapi", lambda: bool(self.read("/openapi/v2", accept="application/com.github.proto-openapi.spec.v2.v1.0+protobuf")))

    def stop_apiserver(self) -> None:
        """Kill kube-apiserver: connections are refused until `start_apiserver`."""
        process = self._processes.pop("kube-apiserver", None)
        if process is not None:
            process.kill()

    def restart_apiserver(self) -> None:
        """Kill kube-apiserver and start it: every watch breaks."""
        self.stop_apiserver()
        self.start_apiserver()

    def pause(self) -> None:
        """Freeze kube-apiserver: connections open and nothing answers, until `resume`."""
        self._processes["kube-apiserver"].send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let kube-apiserver go on."""
        self._processes["kube-apiserver"].send(signal.SIGCONT)

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002 - subprocess's word
        """Run kubectl as the cluster's admin; *input* is its standard input. Raises ProcessFailed with its words when *check*."""
        command = [self._programs.kubectl, "--kubeconfig", self.kubeconfig, *args]
        for _ in range(_CONNECTS):
            done = subprocess.run(command, input=input, capture_output=True, text=True, check=False, env=self._environment())
            if done.returncode == 0 or not check or not _UNHEARD.search(done.stderr):
                break
        if check and done.returncode != 0:
            raise ProcessFailed(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done

    def get(self, *args: str) -> Any:
        """What `kubectl get ... -o json` answers."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def read(self, path: str, *, accept: str = "*/*") -> bytes:
        """The body of a GET as admin, without kubectl's half second. Raises urllib.error.URLError, of which HTTPError is one."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": accept}
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=120, context=self._tls) as answer:
            return bytes(answer.read())

    def write(self, method: str, path: str, body: Any, *, kind: str = "application/json") -> tuple[int, Any]:
        """Status and answer of a request as admin, a refusal too; *kind* is the body's media type."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, method=method, headers=headers, data=json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=120, context=self._tls) as answer:
                return int(answer.status), json.loads(answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.loads(refusal.read())

    def apply_crds(self) -> None:
        """Apply crds/ and wait until each is served."""
        self.kubectl("apply", "--server-side", "-f", CRDS)
        self.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", CRDS)
        for row in self.get("-f", CRDS)["items"]:  # established is not yet served: for a moment a list answers 429
            path = f"/apis/{row['spec']['group']}/{row['spec']['versions'][0]['name']}/{row['spec']['names']['plural']}"
            self._wait(path, lambda path=path: bool(self.read(path)))  # type: ignore[misc]

    def account_kubeconfig(self, namespace: str, account: str, *, pod: str | None = None) -> str:
        """Path of a kubeconfig with a token of this ServiceAccount; bound to *pod*, it names the pod's node."""
        bound = () if pod is None else ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
        token = self.kubectl("create", "token", account, "-n", namespace, "--duration=24h", *bound).stdout.strip()
        path = os.path.join(self.directory, f"kubeconfig-{namespace}-{pod or account}")
        self._write_kubeconfig(path, token=token)
        return path

    def etcd_revision(self) -> int:
        """The current revision of etcd: it grows by one with each write of anyone."""
        return self.etcd.revision()

    def object_versions(self, prefix: str = "/registry/skerry.dev/") -> dict[str, int]:
        """How often each living object was written; the key is its path in etcd."""
        return self.etcd.object_versions(prefix)

    def writes_since(self, revision: int, prefix: str = "/registry/skerry.dev/") -> Counter[str]:
        """Writes since *revision* by object, deletions included. The server itself writes elsewhere than below *prefix*."""
        return self.etcd.writes_since(revision, prefix)

    def _spawn(self, path: str, flags: list[str]) -> Process:
        return Process([path, *flags], log_path=os.path.join(self.directory, f"{os.path.basename(path)}.log"))

    def _start_etcd(self) -> None:
        self._processes["etcd"] = self._spawn(self._programs.etcd, [
            "--name=default", f"--data-dir={self.directory}/etcd", "--log-level=error",
            f"--listen-client-urls={self.etcd_endpoint}", f"--advertise-client-urls={self.etcd_endpoint}",
            f"--listen-peer-urls={self._peer}", f"--initial-advertise-peer-urls={self._peer}", f"--initial-cluster=default={self._peer}",
            *([] if self._fsync else ["--unsafe-no-fsync"]),
        ])  # fmt: skip

    def _apiserver_flags(self) -> list[str]:
        key = f"{self.directory}/service-account.key"
        return [
            f"--etcd-servers={self.etcd_endpoint}", f"--bind-address={self.address}", f"--secure-port={self._port}",
            f"--advertise-address={self.address}", "--endpoint-reconciler-type=none",  # a loopback address is no Endpoint
            f"--cert-dir={self.directory}/certificates", f"--service-cluster-ip-range={self.service_range}",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}", f"--service-account-issuer={_ISSUER}",
            f"--token-auth-file={self.directory}/tokens.csv", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            "--etcd-compaction-interval=0",  # so that writes_since reaches back
            *aggregation.apiserver_flags(self.directory), *self.more_flags,
        ]  # fmt: skip

    def _write_files(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        self._write("service-account.key", pem.decode())
        aggregation.write_files(self.directory)
        self._write("tokens.csv", f'{self.token},admin,admin,"system:masters"\n')
        self._write_kubeconfig(self.kubeconfig, token=self.token)

    def _write_kubeconfig(self, path: str, *, token: str) -> None:
        cluster = {"server": self.url, "certificate-authority": self.ca_path}
        value = {
            "apiVersion": "v1", "kind": "Config", "current-context": "skerry",
            "clusters": [{"name": "skerry", "cluster": cluster}], "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "skerry", "context": {"cluster": "skerry", "user": "user"}}],
        }  # fmt: skip
        self._write(path, json.dumps(value, indent=1))

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self.directory, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)

    def _environment(self) -> dict[str, str]:
        """The cache of kubectl's discovery in our directory: another cluster may have had our port yesterday."""
        return os.environ | {"KUBECACHEDIR": os.path.join(self.directory, "kubectl-cache")}

    def _wait(self, what: str, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            for process in self._processes.values():
                process.require_running(what)
            try:
                if is_done():
                    return
            except (OSError, urllib.error.URLError):
                pass
            if time.monotonic() > deadline:
                raise ProcessFailed(f"kube-apiserver is not {what} after {_READY_SECONDS:.0f} s; see {self.directory}")
            time.sleep(0.05)

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_path)
