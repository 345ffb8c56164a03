"""The framing of Kubernetes' remotecommand, v5.channel.k8s.io: the first byte of a binary message is its channel. Pure.

Source: k8s.io/apimachinery/pkg/util/remotecommand, k8s.io/client-go/tools/remotecommand; the status is a metav1.Status as JSON.
Channel 250 is our own: requests about the process, `{"signal": "INT"}` and `{"detach": true}`.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS, RESIZE, CONTROL, CLOSE = 0, 1, 2, 3, 4, 250, 255
_MAX_SIZE = 65_535
"""Of a terminal: struct winsize holds 16 bits."""


class BadMessage(Exception):
    """The client sent what the protocol does not have."""


@dataclass(frozen=True, slots=True)
class Control:
    """A request about the process."""

    signal: int | None = None
    is_detach: bool = False


def frame(channel: int, data: bytes) -> bytes:
    """A message of *channel*."""
    return bytes((channel,)) + data


def parse_resize(data: bytes) -> tuple[int, int]:
    """Columns and rows of `{"Width": 80, "Height": 24}`. Raises BadMessage."""
    raw = _parse_object(data, "a size")
    width, height = raw.get("Width"), raw.get("Height")
    if not isinstance(width, int) or not isinstance(height, int) or not (0 <= width <= _MAX_SIZE and 0 <= height <= _MAX_SIZE):
        raise BadMessage('a size must be {"Width": COLUMNS, "Height": ROWS}')
    return width, height


def parse_control(data: bytes) -> Control:
    """A message of channel 250. Raises BadMessage."""
    raw = _parse_object(data, "a request")
    name = raw.get("signal")
    return Control(signal=parse_signal(name) if isinstance(name, str) else None, is_detach=raw.get("detach") is True)


def parse_signal(text: str) -> int:
    """The number of `TERM`, `SIGTERM` or `15`. Raises BadMessage."""
    if text.isdecimal() and len(text) <= 2 and 1 <= int(text) <= 64:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    try:
        return signal.Signals[name].value
    except KeyError:
        raise BadMessage(f"{text[:40]!r} is no signal; use a name as TERM or a number from 1 to 64") from None


def render_status(exit_code: int | None, *, signal_name: str | None = None, has_timed_out: bool = False) -> bytes:
    """The last message of an exec: success, or the exit code as kubectl reads it."""
    if exit_code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    causes = [] if exit_code is None else [{"reason": "ExitCode", "message": str(exit_code)}]
    if signal_name is not None:
        causes.append({"reason": "Signal", "message": signal_name})
    message = "nobody could read how the command ended" if exit_code is None else f"command terminated with exit code {exit_code}"
    if has_timed_out:
        causes.append({"reason": "Timeout", "message": "true"})
        message = "the command was killed: its time was over"
    reason = "InternalError" if exit_code is None else "NonZeroExitCode"
    body = {"metadata": {}, "status": "Failure", "message": message, "reason": reason, "details": {"causes": causes}}
    return json.dumps(body).encode()


def render_failure(message: str, *, reason: str = "InternalError", code: int = 500) -> bytes:
    """The last message where something else went wrong."""
    return json.dumps({"metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}).encode()


def _parse_object(data: bytes, what: str) -> dict[str, object]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise BadMessage(f"{what} must be a JSON object")
    return raw
