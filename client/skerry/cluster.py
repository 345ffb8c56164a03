"""The API server in the place of an agent: what the SDK asks of an agent's paths is asked of sandbox objects and of the gateway's streams.

| asked for | done |
| --- | --- |
| /v1/sandboxes, /v1/sandboxes/NS/NAME | the objects: list, create, get, patch of spec, delete |
| .../wait | a watch of the one object |
| .../inspect | the object and its events |
| .../logs, exec, execs, signal, stats, ... | the aggregated API stream.skerry.dev |
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skerry.errors import AgentUnavailable, Refused, SkerryError

if TYPE_CHECKING:
    import http.client

    from skerry.kubeconfig import Access
    from skerry.streaming import Stream

OBJECTS, STREAMS = "/apis/skerry.dev/v1alpha1", "/apis/stream.skerry.dev/v1alpha1"
_TIMEOUT_SECONDS = 60.0
_WATCH_SECONDS = 300
_MERGE = "application/merge-patch+json"
_BEYOND_A_MINUTE = {"logs", "cp"}
"""kube-apiserver ends these after a minute, but not below proxy/ (docs/streaming.md)."""
NO_IMAGES = "images lie on nodes, not in the API server"
IMAGES_HINT = "on the node: skerry --local image ...; sandboxes pull what they need by themselves"


class ClusterTransport:
    """The interface of transport.Transport over an API server. Holds nothing open between requests; safe to share between threads."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.path = access.server
        self._tls = access.tls()

    def request(
        self, method: str, target: str, *, query: Mapping[str, object] | None = None, body: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = _TIMEOUT_SECONDS,
    ) -> Any:  # fmt: skip
        """The decoded JSON answer to what the agent would have been asked. Raises AgentUnavailable, Refused, SkerryError."""
        query = dict(query or {})
        match target.strip("/").split("/")[1:]:
            case ["sandboxes"] if method == "GET":
                return self.call("GET", _collection(query.get("namespace")))
            case ["sandboxes"]:
                return self.call(method, _collection((body or {})["metadata"]["namespace"]), body=body)
            case ["sandboxes", namespace, name]:
                return self._object(method, namespace, name, body or {})
            case ["sandboxes", namespace, name, "wait"]:
                timeout = query.get("timeout")
                return self._wait(namespace, name, wanted=str(query.get("for", "Finished")), seconds=None if timeout is None else float(str(timeout)))
            case ["sandboxes", namespace, name, "inspect"]:
                return self._inspect(namespace, name)
            case ["sandboxes", namespace, name, subresource]:
                path = _stream_path(namespace, name, subresource, lasts=subresource in _BEYOND_A_MINUTE)
                return self.call(method, path, query=query, body=body, timeout_seconds=timeout_seconds)
            case ["version"]:
                return {"version": self.call("GET", "/version")["gitVersion"]}
            case ["info"]:
                return self._info()
            case _:
                raise Refused(NO_IMAGES, status=405, reason="MethodNotAllowed", hint=IMAGES_HINT)

    def read_chunks(self, target: str, *, query: Mapping[str, object] | None = None) -> Iterator[bytes]:
        """Bytes of the answer as they come, for as long as they come."""
        _, _, namespace, name, subresource = target.strip("/").split("/")
        path = _stream_path(namespace, name, subresource, lasts=subresource == "cp" or bool((query or {}).get("follow")))
        with self._open("GET", path, query=query, timeout_seconds=None) as response:
            while chunk := response.read1(65536):
                yield chunk

    def open_stream(self, target: str, *, query: Sequence[tuple[str, object]] = ()) -> Stream:
        """A WebSocket; of *query*, what is None or False is left out. Raises Refused, AgentUnavailable."""
        from skerry import streaming  # noqa: PLC0415 - few commands open one

        _, _, namespace, name, subresource = target.strip("/").split("/")
        path = _stream_path(namespace, name, subresource, lasts=subresource in _BEYOND_A_MINUTE)
        pairs = [(key, "true" if value is True else value) for key, value in query if value is not None and value is not False]
        connection = self._connect(_TIMEOUT_SECONDS)
        host = urllib.parse.urlsplit(self.access.server).netloc
        try:
            return streaming.open_socket(connection, _with_query(path, pairs), headers=self._headers(), host=host)
        except BaseException:
            connection.close()
            raise

    def call(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: Any = None, content: str = "application/json",
        timeout_seconds: float | None = _TIMEOUT_SECONDS,
    ) -> Any:  # fmt: skip
        """The decoded answer of the API server itself. Raises AgentUnavailable, Refused, SkerryError."""
        with self._open(method, path, query=query, body=body, content=content, timeout_seconds=timeout_seconds) as response:
            data = response.read()
        try:
            return json.loads(data)
        except ValueError as error:
            raise SkerryError(f"{self.access.server} answers {path} with what is not JSON") from error

    def watch(self, path: str, *, query: Mapping[str, object], seconds: float | None = None) -> Iterator[dict[str, Any]]:
        """Events of a watch until the server ends it. Raises AgentUnavailable, also after *seconds* of silence; Refused."""
        given = {**query, "watch": 1, "timeoutSeconds": _WATCH_SECONDS}
        with self._open("GET", path, query=given, timeout_seconds=_WATCH_SECONDS + 30.0 if seconds is None else seconds) as response:
            while line := response.readline():
                event: dict[str, Any] = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event

    def _object(self, method: str, namespace: str, name: str, body: Mapping[str, Any]) -> Any:
        path = f"{_collection(namespace)}/{name}"
        if method != "PATCH":
            return self.call(method, path)
        names = ("desiredState", "terminationGracePeriodSeconds")
        spec = {key: body[key] for key in names if body.get(key) is not None}
        return self.call("PATCH", path, body={"spec": spec}, content=_MERGE)

    def _wait(self, namespace: str, name: str, *, wanted: str, seconds: float | None) -> dict[str, Any]:
        """The object when it is Ready, Finished or Deleted, as the agent's own wait has it."""
        from skerry_api import waiting  # noqa: PLC0415 - `skerry --help` needs no resources
        from skerry_api.sandbox import parse_sandbox  # noqa: PLC0415

        end = None if seconds is None else time.monotonic() + seconds
        raw: dict[str, Any] = self._object("GET", namespace, name, {})
        uid = raw["metadata"]["uid"]
        while True:
            sandbox = parse_sandbox(raw)
            is_done = waiting.is_finished(sandbox) or (wanted == "Ready" and waiting.is_ready(sandbox))
            if wanted != "Deleted" and is_done:
                return raw
            found = self._await_change(raw, end, what=f"not {wanted} after {seconds or 0:g} s")
            if found is None or found["metadata"]["uid"] != uid:
                if wanted == "Deleted":
                    return {}
                raise Refused("the sandbox was deleted", status=410, reason="Gone")
            raw = found

    def _await_change(self, raw: Mapping[str, Any], end: float | None, *, what: str) -> dict[str, Any] | None:
        """The object after its next change; None when it is gone. Raises Refused with status 408 at *end*."""
        metadata = raw["metadata"]
        selector = {"fieldSelector": f"metadata.name={metadata['name']}", "resourceVersion": metadata["resourceVersion"]}
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise Refused(what, status=408, reason="Timeout")
        try:
            for event in self.watch(_collection(metadata["namespace"]), query=selector, seconds=left):
                return None if event["type"] == "DELETED" else event["object"]
        except AgentUnavailable:
            if end is not None and time.monotonic() >= end:
                raise Refused(what, status=408, reason="Timeout") from None
            raise
        except Refused as error:
            if error.status != 410:  # too old a version: read it again
                raise
        with contextlib.suppress(Refused):
            found: dict[str, Any] = self._object("GET", metadata["namespace"], metadata["name"], {})
            return found
        return None

    def _inspect(self, namespace: str, name: str) -> dict[str, Any]:
        raw: dict[str, Any] = self._object("GET", namespace, name, {})
        raw["metadata"].pop("managedFields", None)
        said = ("lastTimestamp", "type", "reason", "message", "count")
        return {**raw, "events": [{key: each.get(key) for key in said} for each in self.events(namespace, name=name)]}

    def events(self, namespace: str | None, *, name: str | None = None) -> list[dict[str, Any]]:
        """Events about sandboxes, oldest first; of one when *name* is given."""
        selector = "involvedObject.kind=Sandbox" + (f",involvedObject.name={name}" if name else "")
        place = f"/namespaces/{namespace}" if namespace else ""
        items: list[dict[str, Any]] = self.call("GET", f"/api/v1{place}/events", query={"fieldSelector": selector})["items"]
        return sorted(items, key=lambda each: each.get("eventTime") or each.get("lastTimestamp") or each["metadata"]["creationTimestamp"])

    def _info(self) -> dict[str, Any]:
        nodes = self.call("GET", f"{OBJECTS}/sandboxnodes")["items"]
        details = {"server": self.access.server, "namespace": self.access.namespace, "nodes": len(nodes)}
        return {"version": self.call("GET", "/version")["gitVersion"], "nodeName": "", "mode": "cluster", "details": details}

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: Any = None, content: str = "application/json",
        timeout_seconds: float | None,
    ) -> Iterator[http.client.HTTPResponse]:  # fmt: skip
        import http.client  # noqa: PLC0415 - `skerry --help` needs no HTTP

        pairs = [(key, each) for key, value in (query or {}).items() if value is not None for each in (value if isinstance(value, list) else [value])]
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.access.server).netloc, timeout=timeout_seconds)
        headers = {**self._headers(), "Accept": "application/json", "Content-Type": content}
        try:
            connection.sock = self._connect(timeout_seconds)
            connection.request(method, _with_query(path, pairs), body=None if body is None else json.dumps(body).encode(), headers=headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise parse_status(response.status, response.read(1 << 16))
            yield response
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {timeout_seconds:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(f"it broke off: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _connect(self, timeout_seconds: float | None) -> socket.socket:
        parts = urllib.parse.urlsplit(self.access.server)
        try:
            plain = socket.create_connection((parts.hostname or "", parts.port or (443 if self._tls else 80)), timeout=timeout_seconds)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return plain
            return self._tls.wrap_socket(plain, server_hostname=self.access.server_name or parts.hostname)
        except OSError as error:
            raise self._unavailable(str(error)) from error

    def _headers(self) -> dict[str, str]:
        return {"User-Agent": "skerry", **({"Authorization": self.access.authorization} if self.access.authorization else {})}

    def _unavailable(self, problem: str) -> AgentUnavailable:
        return AgentUnavailable(
            f"the API server {self.access.server}: {problem}",
            hint="is it the right cluster? kubectl config current-context; for this machine's own agent: skerry --local ...",
        )


def parse_status(status: int, data: bytes) -> Refused:
    """The error that a Status of the API server stands for."""
    try:
        body = json.loads(data)
        causes = list((body.get("details") or {}).get("causes") or ())
        field = str(causes[0].get("field") or "") if len(causes) == 1 else ""
        message = str(causes[0].get("message")) if field else str(body["message"])
        return Refused(message, status=status, reason=str(body.get("reason") or "Unknown"), field=field)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Refused(f"the API server answered with HTTP status {status}: {data[:200].decode(errors='replace')}", status=status, reason="Unknown")


def _collection(namespace: object) -> str:
    return f"{OBJECTS}/namespaces/{namespace}/sandboxes" if namespace else f"{OBJECTS}/sandboxes"


def _stream_path(namespace: str, name: str, subresource: str, *, lasts: bool) -> str:
    return f"{STREAMS}/namespaces/{namespace}/sandboxes/{name}/{'proxy/' if lasts else ''}{subresource}"


def _with_query(path: str, pairs: Sequence[tuple[str, object]]) -> str:
    return urllib.parse.quote(path) + (f"?{urllib.parse.urlencode(pairs)}" if pairs else "")
