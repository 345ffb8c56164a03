"""The variables that an instruction sees: ARGs as far as they are declared, ENV over them. Pure.

Source: Docker's Dockerfile reference, "ARG": scope, predefined ones, and how ENV wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skerry_node.build import instructions as kinds
from skerry_node.build import words

PROXIES = tuple(name for base in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY") for name in (base, base.lower()))
"""Arguments that RUN sees undeclared, and that no cache key and no image holds."""


def platform_arguments(architecture: str) -> dict[str, str]:
    """The arguments that name the platforms of build and target, which are one here."""
    parts = {"PLATFORM": f"linux/{architecture}", "OS": "linux", "ARCH": architecture, "VARIANT": ""}
    return {side + part: value for side in ("TARGET", "BUILD") for part, value in parts.items()}


@dataclass(slots=True)
class Scope:
    """Arguments of one stage, or with an empty *outer* those before the first FROM. *given* are the build's own; *used* names those asked for."""

    given: Mapping[str, str]
    platform: Mapping[str, str]
    escape: str
    outer: Mapping[str, str] = field(default_factory=dict)
    is_global: bool = False
    arguments: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def declare(self, step: kinds.Arg, env: Mapping[str, str]) -> None:
        """Take the arguments of *step*. Raises InvalidDockerfile."""
        for name, default in step.pairs:
            self.used.add(name)
            value = self._find(name)
            if value is None and default is not None:
                value = words.expand(default, self.variables(env), escape=self.escape, line=step.line)
            if value is None:
                value = self.outer.get(name, self.platform.get(name))
            if value is not None:
                self.arguments[name] = value

    def variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """What an operand may name."""
        base = self.platform if self.is_global else {}
        return {**base, **self.arguments, **env}

    def proxies(self) -> dict[str, str]:
        """Proxy arguments that RUN gets undeclared."""
        self.used.update(name for name in PROXIES if name in self.given)
        return {name: self.given[name] for name in PROXIES if name in self.given}

    def _find(self, name: str) -> str | None:
        return self.given.get(name)
