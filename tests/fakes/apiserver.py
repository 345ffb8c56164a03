"""A small HTTP API server with faults on demand: lists, watches, patches, Leases, Events and nodes of one group."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter, deque
from typing import Self

from aiohttp import web

GROUP = "/apis/skerry.dev/v1alpha1"
SANDBOXES = f"{GROUP}/sandboxes"


class FakeApiServer:
    """Objects by path; `refusals` holds answers to give in place of the next ones of a kind: list, watch, patch, post, get."""

    def __init__(self) -> None:
        self.objects: dict[str, dict] = {}
        self.refusals: dict[str, deque[int]] = {}
        self.garbage: deque[bytes] = deque()
        self.is_silent = False
        self.seen: Counter[str] = Counter()
        self.watch_queries: list[dict[str, str]] = []
        self.version = 100
        self._history: list[tuple[int, str, dict]] = []
        self._oldest = 0
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen; on the port of last time."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections; those that are open break."""
        self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    def put(self, name: str, *, uid: str, node: str = "n1", finalizers: tuple[str, ...] = (), status: dict | None = None, **spec: object) -> dict:
        """Make or change a sandbox of namespace default, as a user would."""
        path = f"{GROUP}/namespaces/default/sandboxes/{name}"
        kind = "MODIFIED" if path in self.objects else "ADDED"
        body = {
            "apiVersion": "skerry.dev/v1alpha1",
            "kind": "Sandbox",
            "metadata": {"name": name, "namespace": "default", "uid": uid, "finalizers": list(finalizers)},
            "spec": {"image": "busybox", "nodeName": node, **spec},
            **({"status": status} if status else {}),
        }
        self._store(path, body, kind=kind)
        return body

    def drop(self, name: str) -> None:
        """Remove a sandbox."""
        body = self.objects.pop(f"{GROUP}/namespaces/default/sandboxes/{name}")
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", body)

    def send(self, event: dict) -> None:
        """Send a raw watch event to all watchers."""
        for watcher in self._watchers:
            watcher.put_nowait(json.dumps(event).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        """Send bytes to all watchers."""
        for watcher in self._watchers:
            watcher.put_nowait(data)

    def end_watches(self) -> None:
        """End every watch, in good order."""
        for watcher in self._watchers:
            watcher.put_nowait(None)

    def compact(self) -> None:
        """Forget the past: a watch from an old version is answered 410."""
        self.version += 1
        self._oldest = self.version

    def refuse(self, kind: str, *codes: int) -> None:
        """Answer the next requests of *kind* with *codes*."""
        self.refusals.setdefault(kind, deque()).extend(codes)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = "/" + request.match_info["path"]
        kind = request.method.lower()
        if request.method == "GET" and path == SANDBOXES:
            kind = "watch" if request.query.get("watch") else "list"
        self.seen[kind] += 1
        self.seen[f"{kind} {path}"] += 1
        if self.refusals.get(kind):
            return _failure(self.refusals[kind].popleft(), "as the test wants")
        if kind == "list":
            return self._list(request)
        if kind == "watch":
            return await self._watch(request)
        body = json.loads(await request.read() or b"null")
        return getattr(self, f"_{kind}")(request, path, body)

    def _list(self, request: web.Request) -> web.Response:
        if self.garbage:
            return web.Response(body=self.garbage.popleft(), content_type="application/json")
        node = request.query["fieldSelector"].removeprefix("spec.nodeName=")
        items = [body for path, body in self.objects.items() if "/sandboxes/" in path and body["spec"]["nodeName"] == node]
        metadata = {"resourceVersion": str(self.version)}
        return web.json_response({"kind": "SandboxList", "apiVersion": "skerry.dev/v1alpha1", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watch_queries.append(dict(request.query))
        since = int(request.query["resourceVersion"])
        if since < self._oldest:
            return _failure(410, "too old resource version")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watchers.add(queue)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            for version, kind, body in list(self._history):
                if version > since:
                    await response.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")
            while (data := await queue.get()) is not None:
                if not self.is_silent:
                    await response.write(data)
        finally:
            self._watchers.discard(queue)
        return response

    def _get(self, _: web.Request, path: str, _body: object) -> web.Response:
        return web.json_response(self.objects[path]) if path in self.objects else _failure(404, f"{path} not found")

    def _post(self, _: web.Request, path: str, body: dict) -> web.Response:
        if (namespace := _namespace(path)) is not None and f"/api/v1/namespaces/{namespace}" not in self.objects and namespace != "default":
            return _failure(404, f"namespace {namespace} not found")
        target = f"{path}/{body['metadata']['name']}"
        if target in self.objects:
            return _failure(409, "exists")
        self._store(target, body, kind="ADDED")
        return web.json_response(self.objects[target], status=201)

    def _delete(self, _: web.Request, path: str, body: dict) -> web.Response:
        if path not in self.objects:
            return _failure(404, "not found")
        if body["preconditions"]["uid"] != self.objects[path]["metadata"]["uid"]:
            return _failure(409, "uid differs")
        del self.objects[path]
        return web.json_response({"kind": "Status"})

    def _patch(self, request: web.Request, path: str, body: object) -> web.Response:
        path = path.removesuffix("/status")
        if path not in self.objects:
            return _failure(404, f"{path} not found")
        changed = copy.deepcopy(self.objects[path])
        if request.content_type == "application/json-patch+json":
            for operation in body:
                *parents, key = operation["path"].strip("/").split("/")
                place = changed
                for parent in parents:
                    place = place[parent]
                if operation["op"] == "test":
                    if place.get(key) != operation["value"]:
                        return _failure(422, "the server rejected our request due to an error in our request")
                else:
                    place[key] = operation["value"]
        else:
            wanted = body.get("metadata", {}).get("resourceVersion")
            if wanted is not None and wanted != changed["metadata"]["resourceVersion"]:
                return _failure(409, "the object has been modified")
            _merge(changed, body)
        self._store(path, changed, kind="MODIFIED")
        return web.json_response(changed)

    def _store(self, path: str, body: dict, *, kind: str) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = body
        if "/sandboxes/" in path:
            self._tell(kind, body)

    def _tell(self, kind: str, body: dict) -> None:
        event = copy.deepcopy(body)
        self._history.append((self.version, kind, event))
        self.send({"type": kind, "object": event})


def _namespace(path: str) -> str | None:
    parts = path.split("/")
    return parts[parts.index("namespaces") + 1] if "namespaces" in parts[:-1] else None


def _merge(target: dict, patch: dict) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def _failure(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code)
