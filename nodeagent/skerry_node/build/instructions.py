"""The instructions of a Dockerfile as values. Operands are as written: variables are replaced when the build comes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skerry_node.build.source import Heredoc


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; *text* is how it is shown and cached: words as written, blanks joined."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """What RUN, CMD and ENTRYPOINT take: words to execute as they are, or one text for the shell."""

    words: tuple[str, ...]
    is_shell: bool


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """FROM [--platform=P] BASE [AS NAME]."""

    base: str
    name: str | None
    platform: str | None


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """ARG NAME[=VALUE] ..."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    """ENV NAME=VALUE ..."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    """LABEL NAME=VALUE ..."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """RUN. *network* is what --network says; None where it says nothing."""

    command: Command
    heredocs: tuple[Heredoc, ...]
    network: str | None


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """COPY, and ADD when *is_add*. Here-documents among the sources are files of their names."""

    sources: tuple[str, ...]
    target: str
    heredocs: tuple[Heredoc, ...]
    is_add: bool
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text(Instruction):
    """WORKDIR, USER, STOPSIGNAL, MAINTAINER: one operand. *word* says which."""

    word: str
    value: str


@dataclass(frozen=True, slots=True)
class Texts(Instruction):
    """EXPOSE, VOLUME: several operands. *word* says which."""

    word: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program(Instruction):
    """CMD, ENTRYPOINT."""

    word: str
    command: Command


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    """SHELL [...]."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """What follows one FROM up to the next."""

    number: int
    origin: From
    steps: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole Dockerfile: ARGs before the first FROM, its stages, its escape character, and warnings for a person."""

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str
    warnings: tuple[str, ...]
