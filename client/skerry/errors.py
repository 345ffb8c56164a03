"""What callers of the SDK catch, and what the command line prints.

SkerryError
├── AgentUnavailable   nobody answers on the socket
└── Refused            the agent said no: status, reason, field
"""

from __future__ import annotations


class SkerryError(Exception):
    """The root. *hint* is the next step for a person, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class AgentUnavailable(SkerryError):
    """Nobody answers on the agent's socket."""


class Refused(SkerryError):
    """The agent answered, and the answer is no."""

    def __init__(self, message: str, *, status: int, reason: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.status = status
        self.reason = reason
        self.field = field
