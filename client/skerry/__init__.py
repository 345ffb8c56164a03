"""The command line and the Python SDK: `from skerry import Client`. It talks to an agent and never imports one."""

from skerry.client import Client, LogPiece
from skerry.errors import AgentUnavailable, Refused, SkerryError

__all__ = ["AgentUnavailable", "Client", "LogPiece", "Refused", "SkerryError"]
