"""What callers of the SDK catch, and what the command line prints.

SkerryError
├── AgentUnavailable   nobody answers: no agent on the socket, no API server
├── BadKubeconfig      no way to a cluster (kubeconfig.py)
└── Refused            the agent or the API server said no: status, reason, field
"""

from __future__ import annotations


class SkerryError(Exception):
    """The root. *hint* is the next step for a person, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class AgentUnavailable(SkerryError):
    """Nobody answers: no agent on the socket, or no API server."""


class Refused(SkerryError):
    """The agent or the API server answered, and the answer is no."""

    def __init__(self, message: str, *, status: int, reason: str, field: str = "", hint: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message, hint=hint)
        self.status = status
        self.reason = reason
        self.field = field
