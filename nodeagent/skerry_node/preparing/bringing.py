"""Getting the image of a SandboxImage: by a pull with its namespace's credentials, or by a build from what the object holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable

from skerry_api import image as api
from skerry_node.build import archives, engine, progress
from skerry_node.build.errors import BuildError
from skerry_node.building import Builds
from skerry_node.cluster.imageobjects import ImageObjects
from skerry_node.image import access, reference, tar, tarwriting
from skerry_node.image.errors import ImageNotFound
from skerry_node.image.progress import Progress
from skerry_node.image.record import Image
from skerry_node.image.reference import Reference
from skerry_node.image.registry import credentials as vault
from skerry_node.image.registry.credentials import Credential
from skerry_node.image.store import Store
from skerry_node.imaging import Imaging
from skerry_node.sources import Source

Watch = Callable[[Callable[[], Progress]], None]


class Bringing:
    """Must be used inside one event loop. Every method raises ImageError, BuildError, errors.SourceUnavailable, OSError."""

    def __init__(self, objects: ImageObjects, store: Store, images: Imaging, builds: Builds, source: Source) -> None:
        self._objects, self._store, self._images, self._builds = objects, store, images, builds
        self._source = source

    async def pull(self, image: api.SandboxImage, *, watch: Watch) -> Image:
        """The image that *image* refers to."""
        wanted = reference.parse(image.image)
        return await self._get(image, wanted, await self._read_credentials(image), watch=watch)

    async def build(self, image: api.SandboxImage) -> Image:
        """The image that *image* has built, under its name."""
        assert image.build is not None
        credentials = await self._read_credentials(image)

        async def find_image(name: str) -> Image:
            return await self._get(image, reference.parse(name), credentials)

        files = dict(image.build.inline)
        if image.build.config_map is not None:
            held = await self._objects.read_config_map(image.namespace, image.build.config_map)
            if held is None:
                raise BuildError(f"configmap {image.namespace}/{image.build.config_map} does not exist")
            files = dict(held)
        context = await asyncio.to_thread(_pack, files, self._builds.directory)
        try:
            request = engine.Request(
                dockerfile=image.build.dockerfile.encode(), context=context, references=(str(reference.parse(image.image)),),
                target=image.build.target, arguments=dict(image.build.arguments),
            )  # fmt: skip
            return await self._builds.build(request, _ignore, find_image=find_image)
        finally:
            context.close()

    async def _get(
        self, image: api.SandboxImage, wanted: Reference, credentials: tuple[Credential, ...], *,
        watch: Watch | None = None,
    ) -> Image:  # fmt: skip
        """The image *wanted* for *image*, fetched where it is missing; one that is here only for those whom its registry, or namespace, lets in."""
        if wanted.domain == api.BUILT_DOMAIN and wanted.path.partition("/")[0] != image.namespace:
            raise ImageNotFound(f"{wanted}: images of {api.BUILT_DOMAIN} are those of one's own namespace, {api.BUILT_DOMAIN}/{image.namespace}/...")
        puller, found = self._images.puller, self._store.find(str(wanted))
        if found is None:
            return await puller.pull(wanted, credentials=credentials, watch=watch)
        if not await asyncio.to_thread(access.is_proved, self._store, found, wanted, credentials):
            await puller.prove(found, wanted, credentials=credentials)
        return found

    async def _read_credentials(self, image: api.SandboxImage) -> tuple[Credential, ...]:
        found: list[Credential] = []
        for name in image.pull_secrets:
            content = await self._source.read_pull_secret(image.namespace, name)
            if content is not None:
                found += vault.parse(content, source=f"secret {image.namespace}/{name}")
        return (*found, *self._images.read_node_credentials())


def _pack(files: dict[str, str], directory: str) -> archives.Archive:
    """The build context of *files*. Raises InvalidContext for a path that goes up. Blocks."""
    file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - the archive's to close
    writer = tarwriting.Writer(file)
    for path in sorted(files):
        content = files[path].encode()
        entry = tar.Entry(path=path.encode(), mode=0o100644, uid=0, gid=0, mtime_ns=0, size=len(content))
        writer.add(entry, tarwriting.Content([content]))
    writer.finish()
    file.seek(0)
    try:
        return archives.Archive(file, what="spec.build.context")
    except BaseException:
        file.close()
        raise


async def _ignore(_event: progress.Event) -> None:
    """Progress of a build is not told in the object."""
