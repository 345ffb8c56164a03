"""What the API server can refuse.

AgentError
└── SourceUnavailable
    └── Refused        it answered, but not with what was asked for; `code` is the HTTP status
"""

from __future__ import annotations

from skerry_node import errors


class Refused(errors.SourceUnavailable):
    """The API server answered with an error. It may answer otherwise later, so it is tried again."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
