"""A gateway on loopback, as a process to be killed and started at will."""

from __future__ import annotations

import os
import sys
import time
import urllib.error
from collections.abc import Sequence

from tests.harness import aggregation, claims
from tests.harness.agents import python_environment
from tests.harness.controlplane import ControlPlane
from tests.harness.processes import Process, ProcessFailed, tail

_READY_SECONDS = 120.0


class Gateway:
    """`skerry-gateway` behind *plane*; its port is its own and stays."""

    def __init__(self, plane: ControlPlane, directory: str, *, namespace: str, kubeconfig: str | None = None, flags: Sequence[str] = ()) -> None:
        self.plane = plane
        self.port = claims.claim_port()
        self.log_path = os.path.join(directory, "gateway.log")
        self._namespace = namespace
        self._flags = [f"--kubeconfig={kubeconfig or plane.kubeconfig}", f"--system-namespace={namespace}", f"--listen=127.0.0.1:{self.port}", *flags]
        self._process: Process | None = None

    def start(self) -> None:
        """Apply Service and APIService, start the program; returns at once, see `wait_ready`."""
        self.plane.kubectl("apply", "-f", "-", input=aggregation.render_objects(self._namespace, self.port))
        self._process = Process([sys.executable, "-m", "skerry_operator.gateway", *self._flags], log_path=self.log_path, env=python_environment())

    def wait_ready(self) -> None:
        """Wait until the API server serves the group through it. Raises ProcessFailed."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            assert self._process is not None
            self._process.require_running("served")
            try:
                if self.plane.read("/apis/stream.skerry.dev/v1alpha1"):
                    return
            except (OSError, urllib.error.URLError):
                pass
            if time.monotonic() > deadline:
                raise ProcessFailed(f"stream.skerry.dev is not served after {_READY_SECONDS:.0f} s\n{tail(self.log_path)}")
            time.sleep(0.1)

    @property
    def pid(self) -> int | None:
        """Its pid; None while none runs."""
        return self._process.pid if self._process is not None and self._process.is_running else None

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            self._process.stop()

    def audit(self) -> list[str]:
        """Its audit lines so far."""
        with open(self.log_path, encoding="utf-8") as file:
            return [line for line in file if " audit outcome=" in line]
