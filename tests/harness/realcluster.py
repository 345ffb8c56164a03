"""A real cluster of one node on this machine: control plane, controller manager, scheduler, containerd and kubelet, in the foreground.

    with RealCluster.start(directory, say=print) as cluster:
        cluster.import_image(path)
        cluster.plane.kubectl("get", "nodes")

There is no kube-proxy: the API server listens on the address of the Service `kubernetes` itself, on a link of its own, and reaches services by
their endpoints.
Needs root, Debian's runc and containernetworking-plugins. One at a time on a machine; whatever happens inside, nothing of it is left.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from tests.harness import assets, images
from tests.harness.agents import wait_for
from tests.harness.controlplane import ControlPlane
from tests.harness.processes import Process

NODE = "e2e-node"
_LINK, _BRIDGE = "skerry-e2e", "skerry-pods"
_SERVICE_ADDRESS, _SERVICES, _PODS = "10.86.77.1", "10.86.77.0/24", "10.86.78.0/24"  # below those that tests claim
_CNI_PLUGINS = "/usr/lib/cni"
_PAUSE = "registry.invalid/pause:1"
_SECONDS = 180.0
_CGROUPS = "kubepods"
_NETWORK = "skerry-e2e"


class _Plane(ControlPlane):
    address = _SERVICE_ADDRESS
    service_range = _SERVICES
    fixed_port = 443
    more_flags = ("--enable-aggregator-routing=true",)


class RealCluster:
    """Started parts, in order. `stop` ends them in the other order and removes what they made."""

    def __init__(self, directory: str, say: Callable[[str], None]) -> None:
        self.directory = os.path.abspath(directory)
        self._say = say
        self._stack = contextlib.ExitStack()
        self._programs = assets.ensure_node_programs()
        self._containerd = assets.ensure_containerd()
        self.address = os.path.join(self.directory, "containerd.sock")
        self.plane: ControlPlane

    @classmethod
    def start(cls, directory: str, *, say: Callable[[str], None]) -> RealCluster:
        """All of it, until the node is Ready. Raises ProcessFailed, AssetsFailed, subprocess.CalledProcessError."""
        made = cls(directory, say)
        try:
            made._start()
        except BaseException:
            made.stop()
            raise
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything; the last error comes out after all has been tried."""
        self._stack.close()

    def import_image(self, path: str) -> None:
        """An OCI archive into containerd, under the name that it holds."""
        self.ctr("images", "import", "--digests=false", path)

    def ctr(self, *args: str) -> str:
        """Containerd's own command, in the kubelet's namespace."""
        done = subprocess.run([self._containerd.ctr, "--address", self.address, "-n", "k8s.io", *args], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(args)}: {done.stderr[-1000:]}")
        return done.stdout

    def _start(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        self._say("network of the cluster")
        self._stack.callback(_remove_links)
        _remove_links()
        _ip("link", "add", _LINK, "type", "bridge")
        _ip("address", "add", f"{_SERVICE_ADDRESS}/32", "dev", _LINK)
        _ip("link", "set", _LINK, "up")
        self._say("etcd and kube-apiserver")
        self.plane = self._stack.enter_context(_Plane.start(os.path.join(self.directory, "plane")))
        self._say("kube-controller-manager and kube-scheduler")
        self._start_controllers()
        self._say("containerd and kubelet")
        self._start_containerd()
        self._start_kubelet()
        wait_for(None, "the node Ready", self._is_ready, seconds=_SECONDS)

    def _start_controllers(self) -> None:
        key = f"{self.plane.directory}/service-account.key"
        flags = [f"--kubeconfig={self.plane.kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        self._spawn(
            self._programs.kube_controller_manager, *flags, f"--service-account-private-key-file={key}", f"--root-ca-file={self.plane.ca_path}",
            "--use-service-account-credentials=true", "--node-monitor-grace-period=3600s",
        )  # fmt: skip
        self._spawn(self._programs.kube_scheduler, *flags)

    def _start_containerd(self) -> None:
        place = self.directory
        pause = images.busybox_layout(os.path.join(place, "pause"), name=_PAUSE, config={"Entrypoint": ["tail", "-f", "/dev/null"], "Cmd": []})
        os.makedirs(f"{place}/cni", exist_ok=True)
        with open(f"{place}/cni/10-skerry.conflist", "w", encoding="ascii") as file:
            ipam = {"type": "host-local", "ranges": [[{"subnet": _PODS}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": f"{place}/cni-data"}
            plugin = {"type": "bridge", "bridge": _BRIDGE, "isGateway": True, "ipMasq": False, "ipam": ipam}
            file.write(json.dumps({"cniVersion": "1.0.0", "name": _NETWORK, "plugins": [plugin]}))
        with open(f"{place}/containerd.toml", "w", encoding="ascii") as file:
            file.write(_CONTAINERD.format(place=place, pause=_PAUSE, plugins=_CNI_PLUGINS))
        self._stack.callback(self._remove_containers)
        process = self._spawn(
            self._containerd.containerd, "--config", f"{place}/containerd.toml", path=os.path.dirname(self._containerd.containerd),
            quits=signal.SIGTERM,
        )  # fmt: skip
        wait_for(process, "containerd's socket", lambda: os.path.exists(self.address), seconds=_SECONDS)
        archive = f"{place}/pause.tar"
        subprocess.run(["tar", "-C", pause, "-cf", archive, "."], check=True)
        wait_for(process, "containerd answering", self._answers, seconds=_SECONDS)
        self.import_image(archive)
        self._stack.callback(self._end_pods)

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except RuntimeError:
            return False
        return True

    def _start_kubelet(self) -> None:
        place = self.directory
        with open(f"{place}/kubelet.json", "w", encoding="ascii") as file:
            file.write(json.dumps(_kubelet(place, self.address)))
        self._spawn(
            self._programs.kubelet, f"--config={place}/kubelet.json", f"--kubeconfig={self.plane.kubeconfig}", f"--hostname-override={NODE}",
            f"--root-dir={place}/kubelet", f"--cert-dir={place}/kubelet-pki", f"--node-ip={_SERVICE_ADDRESS}", quits=signal.SIGTERM,
        )  # fmt: skip

    def _is_ready(self) -> bool:
        done = self.plane.kubectl("get", "node", NODE, "-o", "json", check=False)
        conditions = json.loads(done.stdout)["status"].get("conditions", []) if done.returncode == 0 else []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _spawn(self, program: str, *flags: str, path: str = "", quits: signal.Signals | None = None) -> Process:
        environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
        process = Process([program, *flags], log_path=os.path.join(self.directory, f"{os.path.basename(program)}.log"), env=environment)
        self._stack.callback(process.kill if quits is None else process.stop)
        return process

    def _end_pods(self) -> None:
        """Whatever still runs in containerd, after the kubelet has gone and before containerd goes."""
        with contextlib.suppress(RuntimeError):
            for task in self.ctr("tasks", "list", "-q").split():
                with contextlib.suppress(RuntimeError):
                    self.ctr("tasks", "delete", "--force", task)
            for container in self.ctr("containers", "list", "-q").split():
                with contextlib.suppress(RuntimeError):
                    self.ctr("containers", "delete", container)

    def _remove_containers(self) -> None:
        """What kubelet and containerd leave when they end: shims, mounts, network namespaces, control groups."""
        for pid in _pids_below(self.address):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for _ in range(5):
            for target in reversed(list(_mounts_below(self.directory))):
                subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
        for root in [*glob.glob("/sys/fs/cgroup/*/"), "/sys/fs/cgroup/"]:
            for base, names, _ in os.walk(os.path.join(root, _CGROUPS), topdown=False):
                for name in names:
                    with contextlib.suppress(OSError):
                        os.rmdir(os.path.join(base, name))
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(root, _CGROUPS))
        shutil.rmtree("/var/log/containers", ignore_errors=True)
        for path in glob.glob("/var/lib/cni/results/*"):  # go-cni's cache has no other place
            with contextlib.suppress(OSError):
                if self.directory in _read(path) or _NETWORK in path or "cni-loopback" in path:
                    os.unlink(path)
        for path in ("/var/lib/cni/results", "/var/lib/cni"):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _kubelet(place: str, containerd: str) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
        "address": "127.0.0.1", "healthzPort": 0, "readOnlyPort": 0, "failCgroupV1": False, "failSwapOn": False, "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": [], "containerRuntimeEndpoint": f"unix://{containerd}", "podLogsDir": f"{place}/pod-logs",
        "volumePluginDir": f"{place}/volume-plugins", "resolvConf": "",
        "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False, "localStorageCapacityIsolation": False, "nodeStatusUpdateFrequency": "5s", "syncFrequency": "10s",
    }  # fmt: skip


def _ip(*args: str, check: bool = True) -> None:
    subprocess.run(["ip", *args], check=check, capture_output=True)


def _remove_links() -> None:
    for name in (_LINK, _BRIDGE):
        _ip("link", "delete", name, check=False)


def _mounts_below(directory: str) -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = line.split()[4].replace("\\040", " ")
            if point.startswith(directory + "/"):
                yield point


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _pids_below(address: str) -> Iterator[int]:
    """Shims of our containerd: its address is on their command line."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            words = file.read().split(b"\0")
            if os.fsencode(address) in words and b"containerd-shim" in words[0]:
                yield int(path.split("/")[2])


_CONTAINERD = """\
version = 3
root = "{place}/containerd/root"
state = "{place}/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{place}/containerd.sock"
[ttrpc]
  address = "{place}/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{place}/cni"
"""
