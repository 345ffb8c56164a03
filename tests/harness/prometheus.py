"""A real Prometheus on loopback, for tests, bench and pictures: scrapes what it is given and answers queries."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from tests.harness import assets
from tests.harness.claims import claim_port
from tests.harness.processes import Process, ProcessFailed

_READY_SECONDS = 60.0
_RULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "charts", "skerry", "rules")
RULES = tuple(os.path.join(os.path.abspath(_RULES), name) for name in ("recording.yaml", "alerts.yaml"))


class Prometheus:
    """One server. *jobs* name targets, `host:port` each with labels; the rules of the chart are loaded."""

    def __init__(self, directory: str, jobs: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]], *, interval_seconds: int = 1) -> None:
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.url = f"http://127.0.0.1:{claim_port()}"
        scrapes = [
            {
                "job_name": job, "honor_labels": True,
                "static_configs": [{"targets": [address], "labels": dict(labels)} for address, labels in targets],
            }
            for job, targets in jobs.items()
        ]  # fmt: skip
        every = f"{interval_seconds}s"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": list(RULES),
            "scrape_configs": scrapes,
        }
        self._configure(config)

    @classmethod
    def configured(cls, directory: str, config: Mapping[str, Any]) -> Self:
        """One with a configuration of somebody else's."""
        made = cls(directory, {})
        made._configure(config)
        return made

    def _configure(self, config: Mapping[str, Any]) -> None:
        with open(os.path.join(self.directory, "prometheus.yml"), "w", encoding="utf-8") as file:
            json.dump(config, file)  # JSON is YAML
        self._process: Process | None = None

    def __enter__(self) -> Self:
        flags = [
            f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address={self.url[7:]}",
        ]
        self._process = Process([assets.ensure_prometheus().prometheus, *flags], log_path=os.path.join(self.directory, "prometheus.log"))
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            self._process.require_running("ready")
            if time.monotonic() > deadline:
                self._process.kill()
                raise ProcessFailed(f"prometheus is not ready after {_READY_SECONDS:.0f} s; see {self.directory}")
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that *expression* is now: `metric` and `value` each. Raises AssertionError with Prometheus' words."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def query_range(self, expression: str, *, start: float, end: float, step_seconds: float) -> list[dict[str, Any]]:
        """The matrix between two times, seconds since 1970: `metric` and `values` each."""
        found: list[dict[str, Any]] = self._ask("query_range", query=expression, start=f"{start}", end=f"{end}", step=f"{step_seconds}")["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, and how that goes."""
        found: list[dict[str, Any]] = self._ask("targets")["activeTargets"]
        return found

    def _ask(self, what: str, **parameters: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=120) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def run_promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Promtool's answer, with both streams in `stdout`."""
    command = [assets.ensure_prometheus().promtool, *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
