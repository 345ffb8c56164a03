"""The operator's own errors.

OperatorError
├── ApiUnavailable   the API server does not answer, or answers with a fault of its own: try again
├── Conflict         the object is not what it was: look again
└── Gone             the object is not there any more
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all."""


class ApiUnavailable(OperatorError):
    """Try again."""


class Conflict(OperatorError):
    """Somebody was quicker."""


class Gone(OperatorError):
    """It does not exist any more."""
