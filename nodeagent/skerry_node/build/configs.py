"""How the image under construction wants to be run: from the base's config, changed by one instruction after the other. Pure.

Source: OCI image-spec, config.md; Docker's image specification for Shell.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skerry_node.build import instructions as kinds
from skerry_node.build.errors import InvalidDockerfile
from skerry_node.image import config as image_config
from skerry_node.image.errors import InvalidImageConfig

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PORT = re.compile(r"(?:[0-9.]*:)?(?:[0-9]*:)?([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_MAX_PORT, _MAX_RANGE = 65_535, 4096
_TEXTS, _SETS = ("Entrypoint", "Cmd", "Shell"), ("ExposedPorts", "Volumes")

Expand = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of an image config that a Dockerfile can say. *is_cmd_own* says that this Dockerfile set CMD."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    author: str = ""
    is_cmd_own: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """ENV as a mapping."""
        return dict(entry.partition("=")[::2] for entry in self.env)

    @property
    def directory(self) -> str:
        """Where relative paths begin."""
        return self.working_dir or "/"


def from_base(raw: Mapping[str, Any]) -> Config:
    """What a base image's config says. Raises InvalidImageConfig."""
    image_config.parse_config(raw)
    run = raw.get("config") or {}
    labels = run.get("Labels") or {}
    sets = {key: run.get(key) or {} for key in _SETS}
    if not all(isinstance(value, Mapping) for value in (labels, *sets.values())):
        raise InvalidImageConfig("Labels, ExposedPorts and Volumes of the image config must be objects")
    lists = {key: image_config.parse_config({"config": {"Cmd": run.get(key)}}).cmd if run.get(key) is not None else None for key in _TEXTS}
    return Config(
        env=tuple(run.get("Env") or ()), entrypoint=lists["Entrypoint"], cmd=lists["Cmd"], working_dir=str(run.get("WorkingDir") or ""),
        user=str(run.get("User") or ""), exposed_ports=tuple(sorted(map(str, sets["ExposedPorts"]))),
        volumes=tuple(sorted(map(str, sets["Volumes"]))),
        labels=tuple(sorted((str(key), str(value)) for key, value in labels.items())), stop_signal=str(run.get("StopSignal") or ""),
        shell=lists["Shell"], author=str(raw.get("author") or ""),
    )  # fmt: skip


def render(config: Config) -> dict[str, Any]:
    """The `config` object of an image config; fields that say nothing are left out."""
    fields: dict[str, Any] = {
        "Env": list(config.env), "Cmd": None if config.cmd is None else list(config.cmd),
        "Entrypoint": None if config.entrypoint is None else list(config.entrypoint),
        "WorkingDir": config.working_dir, "User": config.user, "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Volumes": {path: {} for path in config.volumes}, "Labels": dict(config.labels), "StopSignal": config.stop_signal,
        "Shell": None if config.shell is None else list(config.shell),
    }  # fmt: skip
    return {key: value for key, value in fields.items() if value or (key in {"Cmd", "Entrypoint"} and value is not None)}


def command(config: Config, words: kinds.Command) -> tuple[str, ...]:
    """What a shell form or an exec form executes."""
    return (*(config.shell or DEFAULT_SHELL), *words.words) if words.is_shell else words.words


def apply(config: Config, step: kinds.Instruction, expand: Expand) -> Config:
    """*config* after *step*, one that changes no file. Raises InvalidDockerfile."""
    match step:
        case kinds.Env(pairs=pairs):
            return dataclasses.replace(config, env=_set_variables(config.env, [(expand(name), expand(value)) for name, value in pairs], step.line))
        case kinds.Label(pairs=pairs):
            labels = dict(config.labels) | {expand(name): expand(value) for name, value in pairs}
            return dataclasses.replace(config, labels=tuple(sorted(labels.items())))
        case kinds.Shell(words=words):
            return dataclasses.replace(config, shell=words)
        case kinds.Program(word="CMD"):
            return dataclasses.replace(config, cmd=_program(config, step), is_cmd_own=True)
        case kinds.Program(word="ENTRYPOINT"):
            cmd = config.cmd if config.is_cmd_own else None
            return dataclasses.replace(config, entrypoint=_program(config, step), cmd=cmd)
        case kinds.Texts(word="EXPOSE", values=values):
            ports = {port for value in values for word in expand(value).split() for port in _parse_ports(word, step.line)}
            return dataclasses.replace(config, exposed_ports=tuple(sorted({*config.exposed_ports, *ports})))
        case kinds.Texts(word="VOLUME", values=values):
            return dataclasses.replace(config, volumes=tuple(sorted({*config.volumes, *(_volume(expand(value), step.line) for value in values)})))
        case kinds.Text():
            return _apply_text(config, step, expand(step.value))
    raise TypeError(step)


def _apply_text(config: Config, step: kinds.Text, value: str) -> Config:
    match step.word:
        case "WORKDIR":
            path = posixpath.normpath(posixpath.join("/", config.directory, value))
            changed = dataclasses.replace(config, working_dir="/" + path.lstrip("/"))
        case "USER":
            changed = dataclasses.replace(config, user=value)
        case "STOPSIGNAL":
            changed = dataclasses.replace(config, stop_signal=value)
        case _:
            return dataclasses.replace(config, author=value)
    try:
        image_config.parse_config({"config": render(changed)})
    except InvalidImageConfig as error:
        raise InvalidDockerfile(f"{step.word}: {error}", line=step.line) from error
    return changed


def _program(config: Config, step: kinds.Program) -> tuple[str, ...]:
    return command(config, step.command) if step.command.words or not step.command.is_shell else ()


def _set_variables(env: Sequence[str], pairs: Sequence[tuple[str, str]], line: int) -> tuple[str, ...]:
    """A name that is there keeps its place."""
    found = dict(entry.partition("=")[::2] for entry in env)
    for name, value in pairs:
        if not name or "=" in name:
            raise InvalidDockerfile(f"{name!r} is no name of a variable", line=line)
        found[name] = value
    return tuple(f"{name}={value}" for name, value in found.items())


def _parse_ports(text: str, line: int) -> tuple[str, ...]:
    match = _PORT.fullmatch(text)
    first = int(match[1]) if match is not None else 0
    last = int(match[2]) if match is not None and match[2] else first
    if match is None or not 0 < first <= last <= _MAX_PORT or last - first >= _MAX_RANGE:
        raise InvalidDockerfile(f"EXPOSE: {text[:40]!r} is no port; write 80, 53/udp or 8000-8010", line=line)
    protocol = (match[3] or "tcp").lower()
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def _volume(path: str, line: int) -> str:
    if not path:
        raise InvalidDockerfile("VOLUME: a path is empty", line=line)
    return path
