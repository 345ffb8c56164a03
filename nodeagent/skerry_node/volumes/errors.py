"""What can be wrong with a volume."""

from __future__ import annotations


class VolumeFailed(Exception):
    """A volume cannot be had. *field* names the manifest's field; a lasting one is not tried again: only another manifest or policy helps."""

    def __init__(self, field: str, problem: str, *, reason: str = "VolumeNotReady", is_lasting: bool = False) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem
        self.reason = reason
        self.is_lasting = is_lasting
