"""From the options of `skerry run` to a manifest: docker's words in, Kubernetes' words out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skerry.cli import mounts, publishing, variables

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of generated names, as Kubernetes chooses them: no words, no look-alikes."""
ON_IDLE = {"pause": "Pause", "stop": "Stop", "delete": "Delete"}
RESTART_POLICIES = {"no": "Never", "on-failure": "OnFailure", "always": "Always", "unless-stopped": "Always"}
PULL_POLICIES = {"always": "Always", "missing": "IfNotPresent", "never": "Never"}
NETWORKS = {"bridge": "Bridge", "none": "None", "host": "Host"}
_LEFTOVER_SECONDS = 600
"""How long a finished --rm sandbox waits for a client that died before removing it."""


class BadOptionError(ValueError):
    """An option's value that cannot be meant; *option* names it."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(problem)
        self.option = option


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `skerry run` was asked for, as typed."""

    image: str
    arguments: Sequence[str] = ()
    name: str | None = None
    entrypoint: str | None = None
    env: Sequence[str] = ()
    env_files: Sequence[str] = ()
    volumes: Sequence[str] = ()
    labels: Sequence[str] = ()
    memory: str | None = None
    cpus: str | None = None
    pids_limit: int | None = None
    network: str | None = None
    ports: Sequence[str] = ()
    user: str | None = None
    workdir: str | None = None
    hostname: str | None = None
    restart: str | None = None
    has_init: bool = False
    idle_seconds: int | None = None
    on_idle: str | None = None
    pull: str | None = None
    is_read_only: bool = False
    is_removed: bool = False
    is_detached: bool = False
    has_input: bool = False
    has_terminal: bool = False


def render(options: RunOptions, *, namespace: str, environment: Mapping[str, str], directory: str = "/") -> dict[str, Any]:
    """The manifest; *environment* is where `-e NAME` without a value looks, *directory* where `-v ./x:/y` begins. Raises BadOptionError."""
    metadata: dict[str, Any] = {"name": options.name or generate_name(options.image), "namespace": namespace}
    if options.labels:
        metadata["labels"] = dict(_parse_pair(text, "--label") for text in options.labels)
    limits = {
        "cpu": _parse_cpus(options.cpus),
        "memory": _parse_memory(options.memory),
        "pids": options.pids_limit,
    }
    env = _collect_env(options, environment)
    volumes, volume_mounts = _render_volumes(options, directory)
    if options.on_idle and options.idle_seconds is None:
        raise BadOptionError("--on-idle", "say after how long as well: --idle-seconds N")
    kept = (0 if options.is_detached else _LEFTOVER_SECONDS) if options.is_removed else None
    spec = {
        "image": options.image,
        "imagePullPolicy": _choose(options.pull, PULL_POLICIES, "--pull") if options.pull else None,
        "command": [options.entrypoint] if options.entrypoint else None,
        "args": list(options.arguments) or None,
        "env": [{"name": key, "value": value} for key, value in env.items()] or None,
        "workingDir": options.workdir,
        "user": options.user,
        "hostname": options.hostname,
        "init": True if options.has_init else None,
        "stdin": True if options.has_input else None,
        "tty": True if options.has_terminal else None,
        "resources": _without_none({"limits": _without_none(limits) or None}) or None,
        "network": _render_network(options),
        "volumes": volumes or None,
        "volumeMounts": volume_mounts or None,
        "security": {"readOnlyRootFilesystem": True} if options.is_read_only else None,
        "restartPolicy": _choose(options.restart, RESTART_POLICIES, "--restart") if options.restart else None,
        "ttl": _without_none(
            {
                "idleSeconds": options.idle_seconds,
                "onIdle": _choose(options.on_idle, ON_IDLE, "--on-idle") if options.on_idle else None,
                "secondsAfterFinished": kept,
            }
        )
        or None,
    }
    return {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": metadata, "spec": _without_none(spec)}


def _collect_env(options: RunOptions, environment: Mapping[str, str]) -> dict[str, str]:
    try:
        return variables.merge([*variables.read_files(options.env_files), *options.env], environment)
    except variables.BadVariableError as error:
        raise BadOptionError(error.option, str(error)) from error


def _render_volumes(options: RunOptions, directory: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        return mounts.render(options.volumes, directory=directory)
    except mounts.BadVolumeError as error:
        raise BadOptionError("--volume", str(error)) from error


def _render_network(options: RunOptions) -> dict[str, Any] | None:
    mode = _choose(options.network, NETWORKS, "--network") if options.network else None
    try:
        ports = [publishing.parse(text) for text in options.ports]
    except publishing.BadPortError as error:
        raise BadOptionError("--publish", str(error)) from error
    if ports and mode not in {None, "Bridge"}:
        raise BadOptionError("--publish", "only a sandbox with --network bridge publishes ports")
    return _without_none({"mode": mode, "ports": ports or None}) or None


def generate_name(image: str) -> str:
    """A free name in all likelihood: the image's last part and five letters."""
    last = image.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
    stem = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:40] or "sandbox"
    if not stem[0].isalpha():
        stem = f"s-{stem}"
    return f"{stem}-{''.join(secrets.choice(ALPHABET) for _ in range(5))}"


def _parse_memory(text: str | None) -> str | None:
    """Docker's b, k, m, g are binary and become Kubernetes' Ki, Mi, Gi; Kubernetes' own words pass."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt]?)b?", text.lower()) if not text.endswith("i") else None
    if match is None:
        if re.fullmatch(r"\d+(?:\.\d+)?[KMGT]i", text):
            return text
        raise BadOptionError("--memory", f"{text} is no size: write it as 64m, 1g or 256Mi")
    unit = match[2].upper()
    return match[1] if unit in {"", "B"} else f"{match[1]}{unit}i"


def _parse_cpus(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"\d*\.?\d+m?", text):
        raise BadOptionError("--cpus", f"{text} is no number of CPUs: write it as 0.5, 2 or 250m")
    return f"0{text}" if text is not None and text.startswith(".") else text


def _parse_pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadOptionError(option, f"{text!r}: write it as NAME=VALUE")
    return name, value


def _choose(text: str, words: Mapping[str, str], option: str) -> str:
    if text in words.values():
        return text
    if text.lower() not in words:
        raise BadOptionError(option, f"{text} is not one of {', '.join(words)}")
    return words[text.lower()]


def _without_none(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if value is not None}
