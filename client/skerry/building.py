"""The SDK's end of a build: the Dockerfile and the packed context go up, progress comes down, line by line."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from skerry import transport
from skerry.errors import SkerryError
from skerry_api import ignoring

_HEAD = struct.Struct(">I")
_MAX_FILE_BYTES = 1 << 20


class BuildFailed(SkerryError):
    """The build came to an end without an image. *exit_code* is that of the RUN that failed, else None; *line* is the Dockerfile's, or 0."""

    def __init__(self, message: str, *, reason: str, line: int, exit_code: int | None, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reason, self.line, self.exit_code = reason, line, exit_code


@dataclass(frozen=True, slots=True)
class Options:
    """What of a build is asked for, besides its Dockerfile and context."""

    tags: tuple[str, ...] = ()
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    use_cache: bool = True
    has_network: bool = False
    source_date_epoch: int | None = None


def build(via: transport.Transport, directory: str, *, dockerfile: bytes, rules: ignoring.Rules, options: Options) -> Iterator[dict[str, Any]]:
    """Events of the build, the last one `done` with the image. Raises BuildFailed, and what a request raises."""
    head = json.dumps(
        {
            "dockerfile": dockerfile.decode("utf-8", "surrogateescape"), "tags": list(options.tags), "target": options.target,
            "buildArgs": dict(options.arguments), "noCache": not options.use_cache, "network": options.has_network,
            "sourceDateEpoch": options.source_date_epoch,
        }
    ).encode()  # fmt: skip

    def body() -> Iterator[bytes]:
        from skerry import packing  # noqa: PLC0415 - `skerry --help` needs no tar

        yield _HEAD.pack(len(head)) + head
        yield from packing.pack(directory, rules)

    with contextlib.closing(via.send("/v1/build", body())) as lines:
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "failed":
                raise BuildFailed(
                    event["message"], reason=event["reason"], line=event["line"], exit_code=event["exitCode"], hint=event["hint"],
                )  # fmt: skip
            yield event
            if event["event"] == "done":
                return
    raise SkerryError("the agent broke the build off", hint="see its log, then build again: what was done is in the cache")


def read_dockerfile(directory: str, path: str | None) -> bytes:
    """The Dockerfile at *path*, by default `Dockerfile` in *directory*. Raises SkerryError."""
    name = path if path is not None else os.path.join(directory, "Dockerfile")
    try:
        with open(name, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SkerryError(f"cannot read {name}: {error.strerror}", hint="name the Dockerfile with -f FILE, or - for standard input") from error
    return content


def read_rules(directory: str, dockerfile: str | None) -> ignoring.Rules:
    """The rules of FILE.dockerignore beside the Dockerfile, else of `.dockerignore` in *directory*; none when there is none. Raises SkerryError."""
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else [os.path.join(directory, "Dockerfile.dockerignore")]
    for name in (*candidates, os.path.join(directory, ".dockerignore")):
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                return ignoring.parse(file.read(ignoring.MAX_BYTES))
        except FileNotFoundError:
            continue
        except (OSError, ignoring.InvalidIgnoreFile) as error:
            raise SkerryError(f"{name}: {error}") from error
    return ignoring.Rules()
