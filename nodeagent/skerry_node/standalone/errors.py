"""What can go wrong between a person's request and the files.

StandaloneError
├── AlreadyExists   the name is taken, by a living object or by one that is being deleted
├── NotFound        no such object, or another one of the same name took its place
└── Unavailable     the manifest directory cannot be read or written now; try again
"""

from __future__ import annotations

from skerry_node.errors import AgentError, SourceUnavailable


class StandaloneError(AgentError):
    """The root of this room's errors."""


class AlreadyExists(StandaloneError):
    """The name is taken."""


class NotFound(StandaloneError):
    """No such object."""


class Unavailable(StandaloneError, SourceUnavailable):
    """The files cannot be reached; nothing was changed."""
