"""The helm chart as manifests: `helm template`, parsed. Needs no cluster."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence
from typing import Any

import yaml

from tests.harness import assets
from tests.harness.processes import ProcessFailed

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "charts", "skerry")
Manifest = dict[str, Any]


def helm(*args: str, check: bool = True, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm. Raises ProcessFailed with its words when *check*."""
    done = subprocess.run([assets.ensure_helm(), *args], capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    if check and done.returncode != 0:
        raise ProcessFailed(f"helm {' '.join(args)}: {done.stderr.strip()[-2000:]}")
    return done


@functools.lru_cache(maxsize=64)
def _template(namespace: str, sets: tuple[str, ...]) -> str:
    return helm("template", "skerry", DIRECTORY, "--namespace", namespace, *(word for each in sets for word in ("--set-json", each))).stdout


def render(*sets: str, namespace: str = "skerry-system") -> list[Manifest]:
    """The manifests with these values, each as KEY=JSON. Raises ProcessFailed with helm's words."""
    return [each for each in yaml.safe_load_all(_template(namespace, sets)) if each]


def find(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name. Raises LookupError."""
    for each in manifests:
        if each["kind"] == kind and each["metadata"]["name"] == name:
            return each
    raise LookupError(f"no {kind} {name} among {sorted((each['kind'], each['metadata']['name']) for each in manifests)}")
