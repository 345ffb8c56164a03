"""What a caller of the gateway is told, and why.

OperatorError
└── Denied             an HTTP status, a reason in the API's words, a message for people
    ├── Unauthenticated    401: it is not the API server that speaks, or it names nobody
    ├── Forbidden          403: the caller may not
    └── Unserved           404, 409, 4xx, 5xx: no such thing, not now, not so
"""

from __future__ import annotations

from skerry_operator.errors import OperatorError


class Denied(OperatorError):
    """The request is not served."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason


class Unauthenticated(Denied):
    """Nobody vouches for the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=401, reason="Unauthorized")


class Forbidden(Denied):
    """The caller is known and may not."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=403, reason="Forbidden")


class Unserved(Denied):
    """It may be asked for, but cannot be had."""
