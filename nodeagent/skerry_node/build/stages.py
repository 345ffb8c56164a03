"""Which stages a build needs, in order, and what each comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skerry_node.build import instructions as kinds
from skerry_node.build import words
from skerry_node.build.errors import InvalidDockerfile

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage to build. *base* is the number of an earlier stage, or the name of an image; SCRATCH is none."""

    stage: kinds.Stage
    base: int | str
    platform: str | None


def plan(dockerfile: kinds.Dockerfile, *, target: str | None, variables: Mapping[str, str]) -> tuple[Planned, ...]:
    """The stages that *target* needs (None: the last stage), itself last. Raises InvalidDockerfile."""
    resolved = [_resolve(dockerfile, stage, variables) for stage in dockerfile.stages]
    last = _find_target(dockerfile, target)
    needed, waiting = set[int](), [last]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += _sources(dockerfile, resolved[number])
    return tuple(resolved[number] for number in sorted(needed))


def find(dockerfile: kinds.Dockerfile, name: str, *, before: int) -> int | None:
    """The number of the stage that *name* means, by name or number, among those before stage *before*."""
    for stage in dockerfile.stages[:before]:
        if stage.origin.name is not None and stage.origin.name == name.lower():
            return stage.number
    return int(name) if name.isdecimal() and len(name) < 6 and int(name) < before else None


def _resolve(dockerfile: kinds.Dockerfile, stage: kinds.Stage, variables: Mapping[str, str]) -> Planned:
    origin = stage.origin
    name = words.expand(origin.base, variables, escape=dockerfile.escape, line=origin.line)
    if not name:
        hint = "give it with --build-arg, or a default: ARG NAME=VALUE before FROM"
        raise InvalidDockerfile(f"FROM {origin.base} names nothing: a variable in it is empty; {hint}", line=origin.line, hint=hint)
    platform = words.expand(origin.platform, variables, escape=dockerfile.escape, line=origin.line) if origin.platform else None
    earlier = [other.number for other in dockerfile.stages[: stage.number] if other.origin.name == name.lower()]
    return Planned(stage=stage, base=earlier[0] if earlier else name, platform=platform)


def _find_target(dockerfile: kinds.Dockerfile, target: str | None) -> int:
    if target is None:
        return dockerfile.stages[-1].number
    found = find(dockerfile, target, before=len(dockerfile.stages))
    if found is None:
        names = ", ".join(stage.origin.name for stage in dockerfile.stages if stage.origin.name) or "none has a name"
        raise InvalidDockerfile(f"no stage {target[:40]!r}; there are: {names}")
    return found


def _sources(dockerfile: kinds.Dockerfile, planned: Planned) -> list[int]:
    found = [planned.base] if isinstance(planned.base, int) else []
    for step in planned.stage.steps:
        if isinstance(step, kinds.Copy) and "from" in step.flags:
            number = find(dockerfile, step.flags["from"], before=planned.stage.number)
            found += [number] if number is not None else []
    return found
