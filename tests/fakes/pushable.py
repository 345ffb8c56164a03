"""A registry in memory that takes pushes: uploads in pieces, mounts from other repositories, and faults on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from aiohttp import web

from tests.fakes import registry


@dataclass
class Pushable(registry.Registry):
    """As Registry. *others* are blobs of `team/base`; *faults* are taken one for each upload request: a status, `lost` or `forget`."""

    others: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    faults: list[int | str | None] = field(default_factory=list)
    told_digest: str | None = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if "/blobs/uploads/" not in request.path and request.method != "PUT":
            return await super()._serve(request)
        self.seen.append(registry.Seen(request.method, request.path, request.query_string, dict(request.headers)))
        if not self._is_welcome(request):
            return self._refuse()
        body = await request.read()
        fault = self.faults.pop(0) if self.faults and request.method in {"PATCH", "PUT"} else None
        if isinstance(fault, int):
            return web.json_response({"errors": [{"code": "UNAVAILABLE", "message": "later"}]}, status=fault)
        if fault == "forget":
            self.uploads.clear()
        answer = self._put_manifest(request, body) if "/manifests/" in request.path else self._upload(request, body)
        if fault == "lost" and request.transport is not None:
            request.transport.abort()
        return answer

    def _put_manifest(self, request: web.Request, body: bytes) -> web.Response:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for name in (request.path.rpartition("/")[2], digest):
            self.manifests[name] = (body, request.headers["Content-Type"])
        return web.Response(status=201, headers={"Docker-Content-Digest": self.told_digest or digest})

    def _upload(self, request: web.Request, body: bytes) -> web.Response:
        number = request.path.rpartition("/")[2]
        if request.method == "POST":
            mounted = self.others.get(request.query.get("mount", ""))
            if mounted is not None and request.query.get("from") == "team/base":
                self.put(mounted)
                return web.Response(status=201)
            number = f"upload-{len(self.seen)}"
            self.uploads[number] = bytearray()
        held = self.uploads.get(number)
        if held is None:
            return web.json_response({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "upload unknown"}]}, status=404)
        if body and (start := request.headers.get("Content-Range", f"{len(held)}-").partition("-")[0]) != str(len(held)):
            return web.Response(status=416, text=f"{start} is not {len(held)}")
        held += body
        headers = {"Location": f"/v2/team/app/blobs/uploads/{number}?state={len(held)}", "Range": f"0-{max(len(held) - 1, 0)}"}
        if request.method != "PUT":
            return web.Response(status=204 if request.method == "GET" else 202, headers=headers)
        digest = f"sha256:{hashlib.sha256(held).hexdigest()}"
        if digest != request.query["digest"]:
            return web.json_response({"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}, status=400)
        self.put(bytes(held))
        del self.uploads[number]
        return web.Response(status=201)
