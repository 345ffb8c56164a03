"""The variables of a sandbox with their values: of its manifest, of ConfigMaps and Secrets, of its own object.

They are found at each start and kept in memory for the execs of that life, as pods have it; a new agent finds them again. Nothing of them is
written down or logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skerry_api.sandbox import Sandbox
from skerry_api.variables import MAX_VALUE, EnvVar, FieldRef, KeyRef
from skerry_node.sources import Source

MAX_BYTES = 1 << 20
"""Of all found values of one sandbox: one entry may be asked for under many names."""


class VariableFailed(Exception):
    """A variable cannot be had. *field* names the manifest's field; a lasting one is not tried again."""

    def __init__(self, field: str, problem: str, *, reason: str = "VariableNotReady", is_lasting: bool = False) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem
        self.reason = reason
        self.is_lasting = is_lasting


@dataclass(frozen=True, slots=True)
class Facts:
    """What the node tells a sandbox of itself; without a network of its own the address is empty."""

    node_name: str
    address: str


class Environments:
    """The environments of the sandboxes of this node, by uid."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, ...]] = {}

    async def find(self, source: Source, sandbox: Sandbox, facts: Facts) -> tuple[str, ...]:
        """NAME=VALUE as they were at the last start, found now where nobody knows. Raises VariableFailed, errors.SourceUnavailable."""
        if not has_references(sandbox):
            return plain(sandbox)
        kept = self._kept.get(sandbox.metadata.uid)
        return kept if kept is not None else await self.renew(source, sandbox, facts)

    async def renew(self, source: Source, sandbox: Sandbox, facts: Facts) -> tuple[str, ...]:
        """NAME=VALUE for a start. Each object is read once. Raises VariableFailed, errors.SourceUnavailable."""
        if not has_references(sandbox):
            return plain(sandbox)
        objects: dict[tuple[str, str], Mapping[str, bytes] | None] = {}
        found = []
        for variable in sandbox.spec.env:
            value: str | None = variable.value
            if isinstance(variable.source, FieldRef):
                value = read_field(sandbox, variable.source, facts)
            elif variable.source is not None:
                wanted = (variable.source.kind.value, variable.source.name)
                if wanted not in objects:
                    objects[wanted] = await source.read_entries(variable.source.kind, namespace=sandbox.metadata.namespace, name=variable.source.name)
                value = choose(variable, variable.source, objects[wanted])
            if value is not None:
                found.append(f"{variable.name}={value}")
        if sum(map(len, found)) > MAX_BYTES:
            problem = f"the variables take more than {MAX_BYTES} bytes; mount the object as a volume"
            raise VariableFailed("spec.env", problem, reason="InvalidVariable", is_lasting=True)
        self._kept[sandbox.metadata.uid] = tuple(found)
        return self._kept[sandbox.metadata.uid]

    def forget(self, uid: str) -> None:
        """The sandbox is gone."""
        self._kept.pop(uid, None)


def has_references(sandbox: Sandbox) -> bool:
    """Whether any value has to be looked for."""
    return any(variable.source is not None for variable in sandbox.spec.env)


def plain(sandbox: Sandbox) -> tuple[str, ...]:
    """NAME=VALUE of those that stand in the manifest. Pure."""
    return tuple(f"{variable.name}={variable.value}" for variable in sandbox.spec.env)


def read_field(sandbox: Sandbox, reference: FieldRef, facts: Facts) -> str:
    """A field of the object; empty where it has no value, as in pods. Pure."""
    metadata = sandbox.metadata
    if reference.group:
        return dict(metadata.labels if reference.group == "labels" else metadata.annotations).get(reference.key, "")
    return {
        "metadata.name": metadata.name, "metadata.namespace": metadata.namespace, "metadata.uid": metadata.uid, "spec.nodeName": facts.node_name,
        "status.address": facts.address, "status.podIP": facts.address,
    }[reference.path]  # fmt: skip


def choose(variable: EnvVar, reference: KeyRef, entries: Mapping[str, bytes] | None) -> str | None:
    """The value among *entries* (None: no such object); None leaves the variable out. Raises VariableFailed. Pure."""
    field = f"spec.env[{variable.name}].valueFrom"
    data = None if entries is None else entries.get(reference.key)
    if data is None:
        if reference.is_optional:
            return None
        missing = f"no {reference.kind} {reference.name} in this namespace; create it"
        if entries is not None:
            missing = f"{reference.kind} {reference.name} has no key {reference.key}; add it"
        raise VariableFailed(field, f"{missing}, or set optional: true")
    if b"\0" in data or len(data) >= MAX_VALUE:
        what = "holds a zero byte" if b"\0" in data else f"has {MAX_VALUE} bytes or more"
        problem = f"{reference.key} of {reference.kind} {reference.name} {what}, which no variable can; mount it as a volume"
        raise VariableFailed(field, problem, reason="InvalidVariable", is_lasting=True)
    return data.decode("utf-8", "surrogateescape")
