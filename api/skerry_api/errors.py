"""What a manifest can be wrong about."""

from __future__ import annotations


class InvalidManifest(ValueError):
    """A field of a manifest is wrong. The message names the field and says what to write instead."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem
