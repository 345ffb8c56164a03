"""What can go wrong in the operator.

OperatorError
├── Unconfigured        no way to an API server: ends the process with a sentence
├── LeadershipLost      another replica may write now: ends the process, nothing is written any more
└── RequestFailed       the API server's answer, or its silence
    ├── Unavailable     silence, 429 or 5xx: try again later
    ├── Conflict        the object changed since it was read: its next event brings the truth
    ├── NotFound        the object is gone: nothing to do
    └── Refused         any other 4xx: a mistake or a missing right; tried again slowly, and said aloud
"""

from __future__ import annotations


class OperatorError(Exception):
    """The root of this tree."""


class Unconfigured(OperatorError):
    """There is no way to an API server."""


class LeadershipLost(OperatorError):
    """The operator's Lease is not ours, or was not renewed in time."""


class RequestFailed(OperatorError):
    """A request to the API server did not succeed."""


class Unavailable(RequestFailed):
    """No answer, or one that asks for patience."""


class Conflict(RequestFailed):
    """A precondition does not hold any more."""


class NotFound(RequestFailed):
    """The object does not exist."""


class Refused(RequestFailed):
    """The API server will not do it."""
