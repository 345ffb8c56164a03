"""The SDK's calls for programs beside the first one; a part of Client."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skerry.errors import SkerryError

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport
    from skerry.streaming import Stream
    from skerry.transport import Transport


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a program ended, and what it wrote. *exit_code* is 128 + n for signal n, None when nobody could read it."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    message: str = ""
    signal: str | None = None


class ExecCalls:
    """Programs in running sandboxes. Every method raises SkerryError's subclasses."""

    transport: Transport | ClusterTransport

    def open_exec(  # noqa: PLR0913 - one for each thing that can be asked
        self,
        name: str,
        command: Sequence[str] = (),
        *,
        stdin: bool = False,
        tty: bool = False,
        env: Sequence[str] = (),
        user: str | None = None,
        workdir: str | None = None,
        exec_id: str | None = None,
        timeout_seconds: float | None = None,
        size: tuple[int, int] | None = None,
        namespace: str | None = None,
    ) -> Stream:
        """A program in a running sandbox, and its streams; without *command*, those of the exec that has *exec_id*.

        *env* are NAME=VALUE, *size* is columns and rows of a terminal. With an *exec_id* it goes on when we break off.
        """
        columns, rows = size or (None, None)
        query = [
            *(("command", word) for word in command), *(("env", variable) for variable in env), ("stdin", stdin), ("tty", tty), ("user", user),
            ("workingDir", workdir), ("id", exec_id), ("timeout", timeout_seconds), ("columns", columns), ("rows", rows),
        ]  # fmt: skip
        return self.transport.open_stream(self._target(name, namespace) + "/exec", query=query)

    def exec(self, name: str, command: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> ExecResult:
        """Run a program in a running sandbox to its end; *options* are those of `open_exec`. Output is held in memory."""
        stream = self.open_exec(name, command, stdin=stdin is not None, **options)
        pieces: dict[int, list[bytes]] = {1: [], 2: []}
        feeding = threading.Thread(target=_feed, args=(stream, stdin), daemon=True) if stdin is not None else None
        if feeding is not None:
            feeding.start()
        try:
            while (piece := stream.receive()) is not None:
                pieces.setdefault(piece[0], []).append(piece[1])
        finally:
            stream.close()
        end = stream.end
        return ExecResult(
            exit_code=end.exit_code if end is not None else None, stdout=b"".join(pieces[1]), stderr=b"".join(pieces[2]),
            message=end.message if end is not None else "", signal=end.signal if end is not None else None,
        )  # fmt: skip

    def start_exec(self, name: str, command: Sequence[str], *, exec_id: str | None = None, namespace: str | None = None, **query: Any) -> str:
        """Start a program in a running sandbox and leave it to itself; its id comes back. *query* are tty, env, user, workingDir, timeout."""
        pairs = {"command": list(command), "id": exec_id, **query}
        raw = self.transport.request("POST", self._target(name, namespace) + "/exec", query=pairs)
        return str(raw["id"])

    def execs(self, name: str, *, namespace: str | None = None) -> tuple[dict[str, Any], ...]:
        """Programs that were started in it: id, command, tty, pid, running, attached, exitCode."""
        return tuple(self.transport.request("GET", self._target(name, namespace) + "/execs")["items"])

    def kill(self, name: str, *, signal: str = "KILL", exec_id: str | None = None, namespace: str | None = None) -> None:
        """Send a signal to its first process, or to the exec that has *exec_id*."""
        self.transport.request("POST", self._target(name, namespace) + "/signal", query={"signal": signal, "exec": exec_id})

    def _target(self, name: str, namespace: str | None) -> str:
        raise NotImplementedError


def _feed(stream: Stream, data: bytes) -> None:
    with contextlib.suppress(SkerryError):  # it ended without reading all of it
        for start in range(0, len(data), 1 << 16):
            stream.send(0, data[start : start + (1 << 16)])
        stream.close_stdin()
