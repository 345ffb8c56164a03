"""From a Dockerfile's text to its stages. Pure; what is refused is refused here, with its line.

Source: Docker's Dockerfile reference.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from skerry_node.build import instructions as kinds
from skerry_node.build import operands, source
from skerry_node.build.errors import InvalidDockerfile
from skerry_node.build.source import Statement

_IGNORED = {
    "ONBUILD": "ONBUILD is ignored: images do nothing when others are built on them here",
    "HEALTHCHECK": "HEALTHCHECK is ignored: a sandbox's health is asked for in its manifest",
}


def parse(content: bytes) -> kinds.Dockerfile:
    """The Dockerfile in *content*. Raises InvalidDockerfile with the line at fault."""
    text = source.read(content)
    warnings = list(text.warnings)
    steps: list[kinds.Instruction] = []
    for statement in text.statements:
        if (reason := _IGNORED.get(statement.word)) is not None:
            warnings.append(f"line {statement.line}: {reason}")
            continue
        parse_one = _PARSERS.get(statement.word)
        if parse_one is None:
            raise _unknown(statement)
        steps.append(parse_one(statement, text.escape))
        if statement.word == "MAINTAINER":
            warnings.append(f"line {statement.line}: MAINTAINER is deprecated; write LABEL org.opencontainers.image.authors=...")
    arguments, stages = _group(steps)
    return kinds.Dockerfile(arguments=arguments, stages=stages, escape=text.escape, warnings=tuple(warnings))


def _unknown(statement: Statement) -> InvalidDockerfile:
    near = difflib.get_close_matches(statement.word, [*_PARSERS, *_IGNORED], n=1)
    hint = f"did you mean {near[0]}?" if near else "instructions are " + ", ".join(sorted([*_PARSERS, *_IGNORED]))
    return InvalidDockerfile(f"unknown instruction {statement.word[:40]}; {hint}", line=statement.line, hint=hint)


def _group(steps: list[kinds.Instruction]) -> tuple[tuple[kinds.Arg, ...], tuple[kinds.Stage, ...]]:
    arguments: list[kinds.Arg] = []
    groups: list[tuple[kinds.From, list[kinds.Instruction]]] = []
    for step in steps:
        if isinstance(step, kinds.From):
            groups.append((step, []))
        elif groups:
            groups[-1][1].append(step)
        elif isinstance(step, kinds.Arg):
            arguments.append(step)
        else:
            raise InvalidDockerfile("the first instruction must be FROM; only ARG may stand before it", line=step.line)
    if not groups:
        raise InvalidDockerfile("the Dockerfile has no FROM", line=1)
    names: set[str] = set()
    for origin, _ in groups:
        if origin.name is not None and origin.name in names:
            raise InvalidDockerfile(f"two stages are called {origin.name}", line=origin.line)
        names.add(origin.name or "")
    stages = (kinds.Stage(number=number, origin=origin, steps=tuple(inner)) for number, (origin, inner) in enumerate(groups))
    return tuple(arguments), tuple(stages)


def _from(statement: Statement, _escape: str) -> kinds.From:
    flags, rest = operands.take_flags(statement, {"platform"})
    words = rest.split()
    if len(words) not in {1, 3} or (len(words) == 3 and words[1].upper() != "AS"):
        raise InvalidDockerfile("FROM takes IMAGE, or IMAGE AS NAME", line=statement.line)
    name = words[2].lower() if len(words) == 3 else None
    if name is not None:
        operands.check_stage_name(name, statement.line)
    return kinds.From(statement.line, operands.show(statement), words[0], name, flags.get("platform"))


def _arg(statement: Statement, escape: str) -> kinds.Arg:
    return kinds.Arg(statement.line, operands.show(statement), operands.parse_arguments(statement, escape))


def _env(statement: Statement, escape: str) -> kinds.Env:
    return kinds.Env(statement.line, operands.show(statement), operands.parse_pairs(statement, escape))


def _label(statement: Statement, escape: str) -> kinds.Label:
    return kinds.Label(statement.line, operands.show(statement), operands.parse_pairs(statement, escape))


def _run(statement: Statement, _escape: str) -> kinds.Run:
    flags, rest = operands.take_flags(statement, {"network", "mount", "security"})
    if "mount" in flags:
        raise InvalidDockerfile("RUN --mount is refused: a build has no mounts of others", line=statement.line, hint="COPY what is needed instead")
    if flags.get("security", "sandbox") != "sandbox":
        raise InvalidDockerfile("RUN --security takes sandbox only: every RUN is confined", line=statement.line)
    network = flags.get("network")
    if network not in {None, "none", "default"}:
        raise InvalidDockerfile(f"RUN --network={network} is refused; none and default are known", line=statement.line)
    if not rest.strip():
        raise InvalidDockerfile("RUN needs a command", line=statement.line)
    command = operands.parse_command(rest)
    heredocs = statement.heredocs if command.is_shell else ()
    return kinds.Run(statement.line, operands.show(statement), command, heredocs, network)


def _copy(statement: Statement, _escape: str) -> kinds.Copy:
    is_add = statement.word == "ADD"
    known = {"chown", "chmod", "link"} if is_add else {"chown", "chmod", "link", "from"}
    flags, rest = operands.take_flags(statement, known)
    words = operands.parse_words(rest)
    if len(words) < 2:
        raise InvalidDockerfile(f"{statement.word} needs at least one source, and a destination", line=statement.line)
    for each in words[:-1] if is_add else ():
        if operands.is_remote(each):
            hint = "put the file into the context, or fetch it with RUN --network=default"
            raise InvalidDockerfile(f"ADD of {each[:60]} is refused: nothing remote is fetched; {hint}", line=statement.line, hint=hint)
    if any(word.startswith("<<") for word in words[:-1]) and not statement.heredocs:
        raise InvalidDockerfile(f"{statement.word} has << without a name of letters", line=statement.line)
    return kinds.Copy(statement.line, operands.show(statement), tuple(words[:-1]), words[-1], statement.heredocs, is_add, flags)


def _text(statement: Statement, _escape: str) -> kinds.Text:
    value = statement.rest.strip()
    if not value:
        raise InvalidDockerfile(f"{statement.word} needs an operand", line=statement.line)
    return kinds.Text(statement.line, operands.show(statement), statement.word, value)


def _texts(statement: Statement, _escape: str) -> kinds.Texts:
    values = tuple(operands.parse_words(statement.rest))
    if not values:
        raise InvalidDockerfile(f"{statement.word} needs at least one operand", line=statement.line)
    return kinds.Texts(statement.line, operands.show(statement), statement.word, values)


def _program(statement: Statement, _escape: str) -> kinds.Program:
    return kinds.Program(statement.line, operands.show(statement), statement.word, operands.parse_command(statement.rest.strip()))


def _shell(statement: Statement, _escape: str) -> kinds.Shell:
    words = operands.find_json(statement.rest)
    if not words:
        raise InvalidDockerfile('SHELL takes a JSON list, as SHELL ["/bin/sh", "-c"]', line=statement.line)
    return kinds.Shell(statement.line, operands.show(statement), words)


_PARSERS: dict[str, Callable[[Statement, str], kinds.Instruction]] = {
    "FROM": _from, "ARG": _arg, "ENV": _env, "LABEL": _label, "RUN": _run, "COPY": _copy, "ADD": _copy,
    "WORKDIR": _text, "USER": _text, "STOPSIGNAL": _text, "MAINTAINER": _text, "EXPOSE": _texts, "VOLUME": _texts,
    "CMD": _program, "ENTRYPOINT": _program, "SHELL": _shell,
}  # fmt: skip
