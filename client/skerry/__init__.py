"""The command line and the Python SDK: `from skerry import Client, connect`. It talks to an agent or an API server and imports neither.

What is rarely needed is imported when it is asked for: `skerry --help` is made of this package, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skerry.client import Client, connect
from skerry.errors import AgentUnavailable, Refused, SkerryError
from skerry.execcalls import ExecResult
from skerry.outputcalls import LogPiece

if TYPE_CHECKING:
    from skerry.aio import AsyncClient, AsyncSandbox
    from skerry.handles import NotStarted, SandboxHandle, Stats

__all__ = [
    "AgentUnavailable", "AsyncClient", "AsyncSandbox", "Client", "ExecResult", "LogPiece", "NotStarted", "Refused", "SandboxHandle", "SkerryError",
    "Stats", "connect",
]  # fmt: skip
_LATER = {"AsyncClient": "aio", "AsyncSandbox": "aio", "NotStarted": "handles", "SandboxHandle": "handles", "Stats": "handles"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module skerry has no {name}")
    import importlib  # noqa: PLC0415 - as the docstring says

    return getattr(importlib.import_module(f"skerry.{_LATER[name]}"), name)
