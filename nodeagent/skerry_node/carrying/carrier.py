"""Images carried in and out, as the agent's door asks for it: named, described, saved, pruned."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from skerry_api.sandbox import Sandbox
from skerry_node import act
from skerry_node import loop as loops
from skerry_node.build import cache
from skerry_node.build.errors import BuildError
from skerry_node.carrying import committing, exporting
from skerry_node.carrying.outbound import Outbound
from skerry_node.image import base, describing, saving
from skerry_node.image.errors import ImageError, ImageNotFound, InvalidTree
from skerry_node.image.record import Image, Layer
from skerry_node.image.store import Store
from skerry_node.keeper import client
from skerry_node.serving import outflow
from skerry_node.serving.backend import Refused
from skerry_node.serving.images import CommitRequest, Make

_Answer = TypeVar("_Answer")


class Carrier:
    """skerry_node.serving.images.Carrier over the agent's store and sandboxes."""

    def __init__(self, store: Store, loop: loops.Loop, outbound: Outbound) -> None:
        self._store = store
        self._loop = loop
        self._outbound = outbound
        self.read_pinned: Callable[[], frozenset[str]] = frozenset
        """References and digests that somebody wants kept though no sandbox names them."""

    async def inspect_image(self, reference: str) -> Mapping[str, Any]:
        """Everything that is known of an image, and which sandboxes use it."""
        image = self._find(reference)
        with _refusing():
            found = await asyncio.to_thread(describing.inspect, self._store, image, others=self._visible())
        return {**found, "usedBy": self._users(image)}

    async def image_history(self, reference: str) -> Sequence[Mapping[str, Any]]:
        """How an image came about, first step first."""
        image = self._find(reference)
        with _refusing():
            return await asyncio.to_thread(describing.history, self._store, image)

    async def tag_image(self, source: str, target: str) -> Mapping[str, Any]:
        """A second name for an image."""
        with _refusing(field="target"):
            image = await asyncio.to_thread(self._store.tag, source, target)
        self._loop.poke_all()
        return {"reference": image.reference, "digest": image.digest}

    async def prune_images(self, *, is_dry: bool) -> Mapping[str, Any]:
        """Remove the images that no sandbox uses; the bytes of a layer count when its last image goes."""
        pinned = self.read_pinned()
        unused = [image for image in self._visible() if not self._users(image) and not {image.reference, image.digest} & pinned]
        kept = {layer.path for image in self._store.images if image not in unused for layer in image.layers}
        freed = {layer.path: layer.size_bytes for image in unused for layer in image.layers if layer.path not in kept}
        answer = {"references": [image.reference for image in unused], "freedBytes": sum(freed.values())}
        for image in () if is_dry else unused:
            with contextlib.suppress(ImageNotFound):
                await self._forget(await asyncio.to_thread(self._store.remove, image.reference))
        return answer

    async def save_images(self, references: Sequence[str], *, for_docker: bool, send: Callable[[Make], Awaitable[_Answer]]) -> _Answer:
        """Send the archive of these images; their layers and blobs stay until it is sent."""
        images = list(dict.fromkeys(self._find(reference) for reference in references))
        with self._hold(images):
            with _refusing():
                await self._outbound.ensure_blobs(images)
            return await send(lambda out: saving.write_archive(self._store, images, out, for_docker=for_docker))

    async def push_image(self, reference: str, target: str, *, docker_config: bytes | None) -> AsyncGenerator[Mapping[str, Any], None]:
        """Push an image: steps as they come, at last {"image": {"reference", "digest"}}."""
        image = self._find(reference)
        with self._hold([image]), _refusing(field="target"):
            async with contextlib.aclosing(self._outbound.push(image, target, docker_config=docker_config)) as steps:
                async for step in steps:
                    yield step

    async def export_sandbox(self, sandbox: Sandbox, *, send: Callable[[Make], Awaitable[_Answer]]) -> _Answer:
        """Send the root filesystem of *sandbox* as a tar, whether it runs or not. Its layers stay until it is sent."""
        image = self._image_of(sandbox)
        names = [base.NAME, *(layer.path for layer in image.layers)]

        def make(out: outflow.Outflow) -> None:
            with _refusing(field=""), self._opened_upper(sandbox) as (upper_fd, id_base):
                exporting.write_root(upper_fd, layers_fd=self._store.layers_fd, names=names, out=out, id_base=id_base)
                self._confirm(sandbox, upper_fd)

        with self._hold([image]):
            return await send(make)

    async def commit_sandbox(self, sandbox: Sandbox, request: CommitRequest) -> Mapping[str, Any]:
        """Make an image of *sandbox*: reference, digest, the new layer, what was left out of it."""
        image = self._image_of(sandbox)
        with _refusing(field="changes"):
            committing.parse_changes(request.changes)
        with self._hold([image]), _refusing():
            done = await asyncio.to_thread(self._commit, sandbox, image, request)
        self._loop.poke_all()
        return {
            "reference": done.image.reference,
            "digest": done.image.digest,
            "layer": None
            if done.layer is None
            else {"digest": done.layer.blob.digest, "diffId": done.layer.diff_id, "sizeBytes": done.layer.size_bytes},
            "dropped": [{"path": path.decode("utf-8", "replace"), "reason": reason} for path, reason in done.written.dropped],
            "droppedCount": done.written.dropped_count,
        }

    def _commit(self, sandbox: Sandbox, image: Image, request: CommitRequest) -> committing.Committed:
        with self._opened_upper(sandbox) as (upper_fd, id_base):
            return committing.commit(
                self._store, image, upper_fd, request, id_base=id_base, directory=self._loop.hands.settings.state_dir, now_ns=time.time_ns(),
                confirm=lambda: self._confirm(sandbox, upper_fd),
            )  # fmt: skip

    def _image_of(self, sandbox: Sandbox) -> Image:
        """The image that *sandbox* was started from, whatever its tag means now."""
        digest = sandbox.status.image_digest
        for image in self._store.images:
            if image.digest == digest:
                return image
        found = self._store.find(sandbox.spec.image) if digest is None else None
        if found is None:
            problem = f"the image of {sandbox.metadata.name} is not here any more: {sandbox.spec.image} {digest or ''}".rstrip()
            raise Refused(problem, status=409, reason="ImageNotFound")
        return found

    @contextlib.contextmanager
    def _opened_upper(self, sandbox: Sandbox) -> Iterator[tuple[int | None, int]]:
        """The writable layer's directory and the host id of its root; none while it has not run yet."""
        view, uid = self._loop.hands.view, sandbox.metadata.uid
        lease = view.leases.find(uid)
        try:
            fd = os.open(f"{uid}/upper", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=view.scratch_fd)
        except FileNotFoundError:
            yield None, 0
            return
        try:
            owner = os.fstat(fd).st_uid
            yield fd, view.leases.id_range(lease.slot)[0] if lease is not None else owner
        finally:
            os.close(fd)

    def _confirm(self, sandbox: Sandbox, upper_fd: int | None) -> None:
        """See that the writable layer is still the sandbox's: one that is being deleted was read in part. Raises InvalidTree."""
        if upper_fd is None:
            return
        try:
            now = os.stat(f"{sandbox.metadata.uid}/upper", dir_fd=self._loop.hands.view.scratch_fd, follow_symlinks=False)
        except FileNotFoundError:
            now = None
        if now is None or now.st_ino != os.fstat(upper_fd).st_ino:
            raise InvalidTree(f"{sandbox.metadata.name} was removed meanwhile")

    def _find(self, reference: str) -> Image:
        image = self._store.find(reference)
        if image is None:
            raise Refused(
                f"no image {reference} here; `skerry image ls` shows those there are", status=404, reason="ImageNotFound", field="reference"
            )
        return image

    def _visible(self) -> list[Image]:
        """The images but those that only keep a build's stages."""
        return [image for image in self._store.images if not cache.is_stage(image.reference)]

    def _users(self, image: Image) -> list[str]:
        """The sandboxes of this node that name an image of this content."""
        found = []
        for sandbox in self._loop.wanted.values():
            used = self._store.find(sandbox.spec.image)
            if used is not None and used.digest == image.digest:
                found.append(f"{sandbox.metadata.namespace}/{sandbox.metadata.name}")
        return sorted(found)

    async def _forget(self, layers: Sequence[str]) -> None:
        for layer in layers:
            try:
                await act.forget_layer(self._loop.hands, layer)
            except client.KeeperLost:
                return  # the next keeper mounts only what it is asked for

    @contextlib.contextmanager
    def _hold(self, images: Sequence[Image]) -> Iterator[None]:
        diff_ids = [layer.diff_id for image in images for layer in image.layers]
        with self._store.hold(diff_ids, blobs=[blob.digest for image in images for blob in image.blobs]):
            yield


def _describe(layer: Layer) -> dict[str, Any]:
    return {"digest": layer.blob.digest, "diffId": layer.diff_id, "sizeBytes": layer.size_bytes}


@contextlib.contextmanager
def _refusing(*, field: str = "reference") -> Iterator[None]:
    """Say no in the door's words."""
    try:
        yield
    except ImageNotFound as error:
        raise Refused(str(error), status=404, reason=error.reason, field=field) from error
    except ImageError as error:
        raise Refused(str(error), reason=error.reason, field=field) from error
    except BuildError as error:
        raise Refused(error.problem, reason=error.reason, field=field) from error
