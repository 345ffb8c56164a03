"""Images carried in and out, as the agent's door asks for it: named, described, saved, pruned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from skerry_node import loop as loops
from skerry_node.image import describing, saving
from skerry_node.image.errors import ImageError, ImageNotFound
from skerry_node.image.record import Image
from skerry_node.image.store import Store
from skerry_node.keeper import client
from skerry_node.serving.backend import Refused
from skerry_node.serving.images import Make

_Answer = TypeVar("_Answer")


class Carrier:
    """skerry_node.serving.images.Carrier over the agent's store and sandboxes."""

    def __init__(self, store: Store, loop: loops.Loop) -> None:
        self._store = store
        self._loop = loop

    async def inspect_image(self, reference: str) -> Mapping[str, Any]:
        """Everything that is known of an image, and which sandboxes use it."""
        image = self._find(reference)
        with _refusing():
            found = await asyncio.to_thread(describing.inspect, self._store, image)
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
        unused = [image for image in self._store.images if not self._users(image)]
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
            missing = saving.find_missing(self._store, images)
            if missing:
                image, blob = missing[0]
                raise Refused(
                    f"{image.reference}: the blob {blob.digest} is not kept here; start the agent with --keep-blobs all and bring the image in again",
                    status=409, reason="BlobNotKept", field="reference",
                )  # fmt: skip
            return await send(lambda out: saving.write_archive(self._store, images, out, for_docker=for_docker))

    def _find(self, reference: str) -> Image:
        image = self._store.find(reference)
        if image is None:
            raise Refused(
                f"no image {reference} here; `skerry image ls` shows those there are", status=404, reason="ImageNotFound", field="reference"
            )
        return image

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
                await self._loop.hands.keeper.forget_layer(layer)
            except client.KeeperLost:
                return  # the next keeper mounts only what it is asked for

    @contextlib.contextmanager
    def _hold(self, images: Sequence[Image]) -> Iterator[None]:
        diff_ids = [layer.diff_id for image in images for layer in image.layers]
        with self._store.hold(diff_ids, blobs=[blob.digest for image in images for blob in image.blobs]):
            yield


@contextlib.contextmanager
def _refusing(*, field: str = "reference") -> Iterator[None]:
    """Say no in the door's words."""
    try:
        yield
    except ImageNotFound as error:
        raise Refused(str(error), status=404, reason=error.reason, field=field) from error
    except ImageError as error:
        raise Refused(str(error), reason=error.reason, field=field) from error
