"""Conditions, as SIG Architecture's api-conventions have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Condition:
    """One claim about an object: `status` is True, False or Unknown; `reason` is CamelCase; times are RFC 3339."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


def merge_conditions(old: Sequence[Condition], new: Sequence[Condition]) -> tuple[Condition, ...]:
    """*new*, but with the transition time of *old* where the status is the same."""
    before = {condition.type: condition for condition in old}
    return tuple(
        dataclasses.replace(condition, last_transition_time=known.last_transition_time)
        if (known := before.get(condition.type)) is not None and known.status == condition.status
        else condition
        for condition in new
    )


def parse_condition(raw: Mapping[str, Any]) -> Condition:
    """A condition from JSON; missing parts are empty."""
    return Condition(
        type=str(raw.get("type", "")),
        status=str(raw.get("status", "Unknown")),
        reason=str(raw.get("reason", "")),
        message=str(raw.get("message", "")),
        last_transition_time=str(raw.get("lastTransitionTime", "")),
        observed_generation=int(raw.get("observedGeneration", 0)),
    )


def render_condition(condition: Condition) -> dict[str, Any]:
    """*condition* as JSON."""
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time,
        "observedGeneration": condition.observed_generation,
    }
