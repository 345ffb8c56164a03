"""What a keeper is started with: the agent writes it, the keeper reads it, as one JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What the keeper reaches: directories that exist, and the cgroups below which sandboxes lie."""

    socket_path: str
    runtime_dir: str
    logs_dir: str
    layers_dir: str
    scratch_dir: str
    build_dir: str
    cgroup_dirs: tuple[str, ...]
    io_dirs: tuple[str, ...]
    log_segment_bytes: int
    log_segments: int
    runtime: str = ""
    """The digest of the sealed runtime that it runs from; empty: it runs from an installation."""
    listener_fd: int = -1
    """Its socket, which one that executes the next one hands on; -1: bind."""


def render(settings: Settings) -> str:
    """As one argument of a command line."""
    return json.dumps(asdict(settings))


def parse(text: str) -> Settings:
    """What `render` wrote."""
    raw = json.loads(text)
    return Settings(**{**raw, "cgroup_dirs": tuple(raw["cgroup_dirs"]), "io_dirs": tuple(raw["io_dirs"])})
