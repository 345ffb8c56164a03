"""The agent's own errors; each room's are beside its code.

AgentError
├── SourceUnavailable     where wants come from, or status goes, does not answer: try again
├── NodeNameTaken         another agent holds this node's name: do not start
├── StateDirectoryTaken   another agent runs on this state directory: do not start
└── Unsupported           this machine lacks something; the message says what, and what to do
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of all."""


class SourceUnavailable(AgentError):
    """The source cannot be reached now."""


class NodeNameTaken(AgentError):
    """A living agent holds this node's name."""


class StateDirectoryTaken(AgentError):
    """A living agent of this machine has the state directory."""


class Unsupported(AgentError):
    """The machine lacks something that sandboxes need."""
