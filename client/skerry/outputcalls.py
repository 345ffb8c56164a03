"""The SDK's calls for what a first process writes and reads; a part of Client."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skerry.cluster import ClusterTransport
    from skerry.streaming import Stream
    from skerry.transport import Transport

_FRAME = struct.Struct(">B3xI")
"""Before each piece of output: 1 stdout or 2 stderr, three zeros, length (the agent's serving/logs.py)."""
_STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Output of a sandbox: a line, or a part of one."""

    stream: str
    """stdout or stderr."""
    data: bytes


class OutputCalls:
    """Output of sandboxes, and their input. Every method raises SkerryError's subclasses."""

    transport: Transport | ClusterTransport

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: str | None = None,
        timestamps: bool = False,
        stream: str = "both",
        cursor: Mapping[str, int] | None = None,
        namespace: str | None = None,
    ) -> Iterator[LogPiece]:
        """Output, merged by time; with *follow* until the sandbox has ended. *since* is RFC 3339 or unix seconds.

        *cursor* maps a stream to the number of its bytes to leave out, to go on after a break.
        """
        chunks = self.transport.read_chunks(
            self._target(name, namespace) + "/logs",
            query={
                "follow": int(follow),
                "tail": tail,
                "since": since,
                "timestamps": int(timestamps),
                "stream": stream,
                "frames": 1,
                "cursor": _render_cursor(cursor),
            },
        )
        buffer = bytearray()
        for chunk in chunks:
            buffer += chunk
            start = 0
            while len(buffer) - start >= _FRAME.size:
                number, size = _FRAME.unpack_from(buffer, start)
                if len(buffer) - start - _FRAME.size < size:
                    break
                start += _FRAME.size + size
                yield LogPiece(_STREAMS[number], bytes(buffer[start - size : start]))
            del buffer[:start]

    def open_attach(
        self, name: str, *, stdin: bool = False, stdin_once: bool = False, cursor: Mapping[str, int] | None = None, namespace: str | None = None
    ) -> Stream:
        """The first process's output, from now on or from *cursor* as in `logs`; its exit code is the stream's end.

        With *stdin* what is sent is typed to it, where spec.stdin is set; with *stdin_once* its input ends when we break off.
        """
        query = [("stdin", stdin or None), ("stdinOnce", stdin_once or None), ("cursor", _render_cursor(cursor))]
        return self.transport.open_stream(self._target(name, namespace) + "/attach", query=query)

    def _target(self, name: str, namespace: str | None) -> str:
        raise NotImplementedError


def _render_cursor(cursor: Mapping[str, int] | None) -> str | None:
    return ",".join(f"{name}:{offset}" for name, offset in cursor.items()) if cursor else None
