"""The way to say no."""

from __future__ import annotations


class Refused(Exception):
    """The request cannot be granted; *message* says why and what to do, *field* which part of the request is meant."""

    def __init__(self, message: str, *, status: int = 422, reason: str = "Invalid", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.field = field
