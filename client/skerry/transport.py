"""HTTP to the agent over its unix socket, a connection per request. JSON in and out, or a stream of bytes."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skerry.errors import AgentUnavailable, Refused, SkerryError

if TYPE_CHECKING:
    import http.client

    from skerry.streaming import Stream

DEFAULT_SOCKET = "/run/skerry/agent.sock"
_TIMEOUT_SECONDS = 60.0
"""For answers that the agent gives at once; a busy machine included."""


class Transport:
    """Requests to the agent at *path*. Holds nothing open between them."""

    def __init__(self, path: str) -> None:
        self.path = path

    def request(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = _TIMEOUT_SECONDS,
    ) -> Any:
        """The decoded JSON answer. Raises AgentUnavailable, Refused, SkerryError."""
        with self._open(method, target, query=query, body=body, timeout_seconds=timeout_seconds) as response:
            return json.loads(response.read())

    def read_chunks(self, target: str, *, query: Mapping[str, object] | None = None) -> Iterator[bytes]:
        """Bytes of the answer as they come, for as long as they come."""
        with self._open("GET", target, query=query, body=None, timeout_seconds=None) as response:
            while chunk := response.read1(65536):
                yield chunk

    def send(self, target: str, body: Iterable[bytes]) -> Generator[bytes, None, None]:
        """Post *body*, piece by piece; lines of the answer as they come."""
        with self._open("POST", target, query=None, body=body, timeout_seconds=None) as response:
            yield from response

    def open_stream(self, target: str, *, query: Sequence[tuple[str, object]] = ()) -> Stream:
        """A WebSocket to *target*; of *query*, what is None or False is left out. Raises Refused, AgentUnavailable."""
        import urllib.parse  # noqa: PLC0415 - as below

        from skerry import streaming  # noqa: PLC0415

        pairs = [(name, "true" if value is True else value) for name, value in query if value is not None and value is not False]
        try:
            text = urllib.parse.urlencode(pairs)
        except UnicodeEncodeError as error:
            raise SkerryError(f"{error.object!r} is not UTF-8, and cannot be sent") from error
        connection = self._connect(_TIMEOUT_SECONDS)
        try:
            return streaming.open_socket(connection, f"{urllib.parse.quote(target)}?{text}")
        except BaseException:
            connection.close()
            raise

    def read_objects(self, method: str, target: str, *, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """JSON objects, a line each, as they come. Raises as `request`, and SkerryError when the agent breaks off."""
        with self._open(method, target, query=None, body=body, timeout_seconds=None) as response:
            for line in response:
                yield json.loads(line)

    @contextlib.contextmanager
    def _open(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, object] | None,
        body: Mapping[str, Any] | Iterable[bytes] | None,
        timeout_seconds: float | None,
    ) -> Iterator[http.client.HTTPResponse]:
        # Imported here: `skerry --help` needs no HTTP, and these cost half of its time.
        import http.client  # noqa: PLC0415
        import urllib.parse  # noqa: PLC0415

        connection = http.client.HTTPConnection("localhost", timeout=timeout_seconds)
        url = urllib.parse.quote(target)
        if query:
            url += "?" + urllib.parse.urlencode({k: v for k, v in query.items() if v is not None}, doseq=True)
        try:
            connection.sock = self._connect(timeout_seconds)
            data = json.dumps(body).encode() if isinstance(body, Mapping) else body
            try:
                connection.request(method, url, body=data, headers={"Content-Type": "application/json"})
            except (BrokenPipeError, ConnectionResetError):
                if data is None or isinstance(data, bytes):
                    raise  # one that was still being sent may have its answer already
            response = connection.getresponse()
            if response.status >= 400:
                raise parse_refusal(response.status, response.read())
            yield response
        except TimeoutError as error:
            raise AgentUnavailable(
                f"the agent at {self.path} did not answer within {timeout_seconds:g} s",
                hint="see its log; journalctl -u skerry-agent, or the terminal it runs in",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise AgentUnavailable(
                f"the agent at {self.path} broke off: {error or type(error).__name__}",
                hint="see its log, then try again: every command may be repeated",
            ) from error
        except json.JSONDecodeError as error:
            raise SkerryError(f"what answers at {self.path} is not a Skerry agent") from error
        finally:
            connection.close()

    def _connect(self, timeout_seconds: float | None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_seconds)
        try:
            sock.connect(self.path)
        except PermissionError:
            sock.close()
            raise AgentUnavailable(f"no permission to open {self.path}", hint="run this as root, as with sudo") from None
        except OSError as error:
            sock.close()
            raise AgentUnavailable(
                f"no agent answers at {self.path} ({error.strerror})",
                hint="start one: skerry-agent --standalone --manifests DIR; or name its socket: --socket PATH",
            ) from None
        return sock


def parse_refusal(status: int, data: bytes) -> Refused:
    """The error that an answer with *status* and body *data* stands for."""
    try:
        body = json.loads(data)
        return Refused(str(body["message"]), status=status, reason=str(body["reason"]), field=str(body.get("field") or ""))
    except (ValueError, KeyError, TypeError):
        return Refused(f"the agent answered with HTTP status {status}", status=status, reason="Unknown")
