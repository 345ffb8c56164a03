"""A registry in memory, honest unless a test makes it lie: manifests and blobs over HTTP, with basic or token authentication."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from skerry_node.image.registry.manifests import MANIFEST, this_platform

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
Lie = Callable[[web.Request, bytes, str], Awaitable[web.StreamResponse | None]]
"""Given a request, the honest content and its media type: another answer, or None for the honest one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


@dataclass
class Registry:
    """One repository `team/app` with what `put_image` and `put` gave it. *users* turns authentication on: basic, or bearer when *realm* is set."""

    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    users: dict[str, str] = field(default_factory=dict)
    realm: str = ""
    tokens: set[str] = field(default_factory=set)
    lies: list[Lie] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    _runner: Any = None

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def stop(self) -> None:
        """Refuse connections from now on."""
        await self.__aexit__()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def reference(self, tag: str = "1") -> str:
        return f"{self.host}/team/app:{tag}"

    def put(self, content: bytes) -> dict[str, Any]:
        """A blob; returns its digest and size as a descriptor has them."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"digest": digest, "size": len(content)}

    def put_manifest(self, raw: dict[str, Any], *tags: str, media_type: str = MANIFEST) -> dict[str, Any]:
        """A manifest or index under its digest and *tags*; returns its descriptor."""
        content = json.dumps(raw).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        for name in (digest, *tags):
            self.manifests[name] = (content, media_type)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def put_image(self, *tars: bytes, tag: str = "1", config: dict[str, Any] | None = None, change: Any = None) -> dict[str, Any]:
        """An image of *tars*, gzipped; *change* may spoil the manifest. Returns its descriptor."""
        layers = [{"mediaType": GZIP, **self.put(gzip.compress(tar, 1, mtime=0))} for tar in tars]
        here = this_platform()
        image = {
            "os": here.os,
            "architecture": here.architecture,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
            **(config or {}),
        }
        described = {"mediaType": CONFIG, **self.put(json.dumps(image).encode())}
        raw = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": layers}
        if change is not None:
            change(raw)
        return self.put_manifest(raw, tag)

    def paths(self, method: str = "GET") -> list[str]:
        """What was asked for, in order."""
        return [each.path for each in self.seen if each.method == method]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(Seen(request.method, request.path, request.query_string, dict(request.headers)))
        if request.path == "/token":
            return self._give_token(request)
        if not self._is_welcome(request):
            return self._refuse()
        *_, kind, name = request.path.split("/")
        held = self.manifests.get(name) if kind == "manifests" else (self.blobs[name], "application/octet-stream") if name in self.blobs else None
        if held is None:
            return _error(404, "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN", f"{kind[:-1]} unknown")
        content, media_type = held
        for lie in list(self.lies):
            answer = await lie(request, content, media_type)
            if answer is not None:
                return answer
        return honest(request, content, media_type)

    def _is_welcome(self, request: web.Request) -> bool:
        header = request.headers.get("Authorization", "")
        if self.realm:
            return header.removeprefix("Bearer ") in self.tokens
        return not self.users or self._user(header) is not None

    def _user(self, header: str) -> str | None:
        try:
            name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        except ValueError:
            return None
        return name if self.users.get(name) == password else None

    def _refuse(self) -> web.Response:
        challenge = f'Bearer realm="{self.realm}",service="fake"' if self.realm else 'Basic realm="fake"'
        return _error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    def _give_token(self, request: web.Request) -> web.Response:
        """The token server: for users only, where there are any."""
        if self.users and self._user(request.headers.get("Authorization", "")) is None:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        token = f"token-{len(self.tokens)}-{request.query.get('scope')}"
        self.tokens.add(token)
        return web.json_response({"token": token, "expires_in": 300})


def honest(request: web.Request, content: bytes, media_type: str) -> web.Response:
    """*content* whole, or the range that is asked for."""
    headers = {"Content-Type": media_type, "Docker-Content-Digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    wanted = request.headers.get("Range", "")
    if wanted:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return web.Response(status=206, body=content[start:], headers=headers)
    return web.Response(body=content, headers=headers)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=headers)
