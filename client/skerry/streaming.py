"""Streams of a sandbox: WebSocket messages of Kubernetes' v5.channel.k8s.io, whose first byte is their channel. Synchronous."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skerry.errors import AgentUnavailable, Refused

if TYPE_CHECKING:
    import websocket

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS, RESIZE, CONTROL, CLOSE = 0, 1, 2, 3, 4, 250, 255
CHUNK_BYTES = 1 << 18
"""Of one message; the other end takes up to 4 MiB."""
_BINARY = b"\x82"
_NO_MASK = bytes(4)
"""RFC 6455 masks for the sake of proxies that read along. There are none on a unix socket or in TLS, and masking costs more than the copy itself."""


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended: the program's exit code (128 + n for signal n; None when nobody could read it), and a message when it went wrong."""

    exit_code: int | None
    message: str = ""
    signal: str | None = None
    has_timed_out: bool = False


class Stream:
    """One stream. `send` and `receive` may be called from two threads. Raises AgentUnavailable when the other end breaks off."""

    def __init__(self, socket: websocket.WebSocket, connection: Any) -> None:
        self._socket = socket
        self._connection = connection
        self.end: End | None = None

    def send(self, channel: int, data: bytes) -> None:
        """Send *data*, in as many messages as it takes; it waits while the program does not read."""
        for start in range(0, max(len(data), 1), CHUNK_BYTES):
            self._send(channel, data[start : start + CHUNK_BYTES])

    def _send(self, channel: int, data: bytes) -> None:
        length = len(data) + 1
        size = bytes((0x80 | length,)) if length < 126 else struct.pack("!BH", 0xFE, length) if length < 1 << 16 else struct.pack("!BQ", 0xFF, length)
        try:
            with self._socket.lock:
                self._connection.sendall(b"".join((_BINARY, size, _NO_MASK, bytes((channel,)), data)))
        except (OSError, _websocket().WebSocketException) as error:
            raise AgentUnavailable(f"the stream broke off: {error or type(error).__name__}") from error

    def close_stdin(self) -> None:
        """Let the program read an end of file."""
        self.send(CLOSE, bytes((STDIN,)))

    def resize(self, columns: int, rows: int) -> None:
        """The size of the terminal."""
        self.send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def detach(self) -> None:
        """Leave the program to itself; it can be attached to again by its id."""
        self.send(CONTROL, b'{"detach": true}')

    def signal(self, name: str) -> None:
        """Send a signal to the program."""
        self.send(CONTROL, json.dumps({"signal": name}).encode())

    def receive(self) -> tuple[int, bytes] | None:
        """The next channel and its bytes; None at the end, which `end` then tells (None: detached)."""
        try:
            data = self._socket.recv()
        except _websocket().WebSocketConnectionClosedException:
            if self.end is not None:
                return None
            raise AgentUnavailable("the stream broke off", hint="the program may still run: see what there is with skerry ps") from None
        except (OSError, _websocket().WebSocketException) as error:
            if self.end is not None:  # our answer to the close came too late for the other end: nothing is missing
                return None
            raise AgentUnavailable(f"the stream broke off: {error or type(error).__name__}") from error
        if not data or isinstance(data, str):
            return None
        if data[0] == STATUS:
            self.end = parse_end(data[1:])
            return self.receive()
        return data[0], data[1:]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._connection.close()  # the library leaves it open once the other end has said that it closes


def parse_end(data: bytes) -> End:
    """From a metav1.Status as JSON."""
    raw: dict[str, Any] = json.loads(data)
    if raw.get("status") == "Success":
        return End(0)
    causes = {each.get("reason"): each.get("message") for each in (raw.get("details") or {}).get("causes") or ()}
    code = causes.get("ExitCode")
    return End(
        exit_code=int(code) if code is not None and code.isdecimal() else None,
        message=str(raw.get("message") or ""),
        signal=causes.get("Signal"),
        has_timed_out="Timeout" in causes,
    )


def open_socket(connection: Any, target: str, *, headers: dict[str, str] | None = None, scheme: str = "ws", host: str = "localhost") -> Stream:
    """A stream at *target* (path and query) over the connected socket *connection*. Raises Refused, AgentUnavailable."""
    websocket = _websocket()
    socket = websocket.WebSocket(enable_multithread=True, skip_utf8_validation=True)
    try:
        socket.connect(f"{scheme}://{host}{target}", socket=connection, subprotocols=[PROTOCOL], header=headers or {}, suppress_origin=True)
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(error.status_code, error.resp_body or b"") from None
    except (OSError, websocket.WebSocketException) as error:
        raise AgentUnavailable(f"no stream: {error or type(error).__name__}") from error
    connection.settimeout(None)
    return Stream(socket, connection)


def _refusal(status: int, data: bytes) -> Refused:
    from skerry.transport import parse_refusal  # noqa: PLC0415 - they need each other

    return parse_refusal(status, data)


def _websocket() -> Any:
    # Imported here: `skerry --help` opens no stream.
    import websocket  # noqa: PLC0415

    return websocket
